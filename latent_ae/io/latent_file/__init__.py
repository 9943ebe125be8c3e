"""The latent file, a public contract. `header` and `metadata` read it without torch."""
