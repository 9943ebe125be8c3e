"""How good an autoencoder is: measures, reports, perceptual distances and likelihood bounds."""
