"""Stage 1: a VQ-VAE that learns codes from unlabelled images, and what is done with it afterwards.

Letters used in shapes: B batch, N samples or tokens, C channels, H W image height and width, D code dimension,
K codebook size, R residual depth (1 so far), h w code grid.
"""
