"""How good an autoencoder is.

run           model name and settings -> images, networks -> one of the two reports
evaluate      images -> reconstructions and latents -> EvaluationReport
likelihood    images -> samples of the posterior -> LikelihoodReport
report        the reports, and their warnings
perceptual    distances between images, a loss term and a metric: LPIPS and random features
weight_files  published weights: given, or in the cache, or downloaded
metrics/      one file a measure
"""
