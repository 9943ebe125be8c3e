"""A class-conditional diffusion model on a data set of latents: the proof that an autoencoder's latents diffuse well.

settings    what is asked for                  samples     a row, its noise and its place in time, by number
network     a diffusion transformer (DiT)      pipeline    stock diffusers.DiTPipeline with the autoencoder inside,
                                                           written, loaded again and compared
"""
