"""Measures of reconstructions, latents and codes.

    quality             PSNR, SSIM, MS-SSIM, L1, gradient energy and colour bias of a reconstruction
    fid                 rFID: distance between the features of reconstructions and images, as sets
    latents             KL, moments and active units of posteriors
    equivariance        whether latents turn and shrink with the image
    codebook            use of the codes, and bits per pixel
    likelihood_bounds   bounds of log p(x) of 8-bit images under a KL autoencoder

Functions return a value per image; classes accumulate statistics over images, and merge exactly over any split.
"""
