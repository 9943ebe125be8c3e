"""What an image file says beside its pixels, and how it is opened. `latent_ae.io.image` makes pixels of it.

opening     which kind of file it is, the limits that hold while Pillow reads it, orientation, frames
tiff        tags of a TIFF that change what its values mean
color       profiles and video code points, and their conversion to sRGB
damage      files whose damage leaves the pixels whole
containers  walks through the parts of PNG, JPEG 2000 and AVIF files
"""
