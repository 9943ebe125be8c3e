"""Training of a hierarchical prior on a data set of latents: the upper part of a hierarchical VAE.

settings    what is asked for                  samples     a row and its noise, by number
objective   what is minimised                  result      the prior as a folder, with pictures of what levels decide
"""
