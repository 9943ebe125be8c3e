"""Training any network on a data set of latents: what diffusion/ and hierarchy/ have in common.

settings    what every such training asks for       source      the latents and their autoencoder
samples     rows by number, and the loader          state       what changes with the steps
training    one update, checkpoints; what differs is a subclass's
program     the whole run around it
"""
