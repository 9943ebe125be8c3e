"""Measures of reconstructions, latents and codes.

    quality             PSNR, SSIM, MS-SSIM, L1, errors in the data's units, gradient energy and colour bias
    baseline            the error of the mean image, and the levels that images use
    fid                 rFID: distance between the features of reconstructions and images, as sets
    latents             KL, moments and active units of posteriors
    equivariance        whether latents turn and shrink with the image
    codebook            use of the codes, and bits per pixel
    likelihood_bounds   bounds of log p(x) of 8-bit images under a KL autoencoder

Functions return a value per image; classes accumulate statistics over images, and merge exactly over any split.
"""
