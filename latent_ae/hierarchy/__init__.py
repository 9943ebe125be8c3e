"""Training of a hierarchical prior (models/hierarchy.py) on a data set of latents: a hierarchical VAE, the upper part.

settings    what is asked for                  samples     a row and its noise, by number
objective   what is minimised                  result      the prior as a folder, with pictures of what levels decide
"""
