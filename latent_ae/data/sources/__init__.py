"""Where images come from: one file a source. The table is `latent_ae.data.SOURCES`."""
