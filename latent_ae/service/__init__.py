"""Models behind admission, a queue, batches and typed errors. Knows nothing of Gradio or HTTP.

Where an upload waits, with the error that it can end with (before, in the app: for its body, and on the page for one
of Gradio's events; docs/serving.md):

    a request's thread                                              the model's thread

    service.py    one method an endpoint
       |
    admission.py  a slot of the server (Busy at once)
       |
    uploads.py    waits for a CPU slot (DeadlineExceeded), reads within limits.py (TooLarge, BrokenUpload ...)
       |
    jobs.py       a job for each image (TooLarge at once if there is no time for it)
       |
    queue.py      waits for its turn (DeadlineExceeded) ----------> a batch of equal jobs -> Codec
       |                                                                     |
    results.py    the reply: metrics, the latent file <--------------------- the result of each job

Beside them: catalog.py (the models and their learned priors), measures.py (metrics, and JPEG and WebP as baselines),
inspection.py (statistics and pictures of latents), remote.py (diffusers' remote VAE), limits.py and errors.py.
"""
