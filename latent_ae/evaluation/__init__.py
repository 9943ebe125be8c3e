"""How good an autoencoder is.

images           options, models' runs -> which images are measured, and how they are read
run              models by name -> images, networks -> one of the two reports
evaluate         images -> reconstructions and latents -> Measurements
measurements     what was measured, mergeable over processes -> EvaluationReport
likelihood       images -> samples of the posterior -> LikelihoodReport
report           the reports; report_warnings: what a person should look at first
perceptual       distances between images, a loss term and a metric: LPIPS and random features
view             which channels of an image they see, and rFID
weight_files     published weights: given, or in the cache, or downloaded
metrics/         one file a measure
"""
