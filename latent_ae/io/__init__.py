"""Files: images, latent files, paths, locks, and the one writer."""
