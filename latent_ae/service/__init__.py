"""Models behind admission, a queue, batches and typed errors. Knows nothing of Gradio or HTTP.

docs/serving.md shows where an upload waits, and with which errors: in `admission`, `uploads`, `jobs` and `queue`, whose
thread gives batches of equal jobs to a Codec. `service` has one method for each endpoint, `results` what they return.
Beside them: `catalog` (the models and their learned priors), `measures` (metrics, and JPEG and WebP as baselines),
`inspection` (statistics and pictures of latents), `remote` (diffusers' remote VAE), `limits` and `errors`.
"""
