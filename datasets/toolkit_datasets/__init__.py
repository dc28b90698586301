"""The ground floor: datasets as cards, samples, splits and decoded images, and the store of codes.

Letters used in shapes: N samples, H W image height and width, C channels, R residual depth, h w code grid,
D code dimension, K codebook size.
"""
