"""Stage 2: frozen codes -> features -> a small classifier or regressor -> honest scores.

It knows neither images nor stage 1. Letters used in shapes: N samples, n samples of a draw, T test samples, F features,
C classes, A numbers of an answer (C probabilities, or 1 prediction), r dimensions of a draw's row space, R residual
depth, h w code grid, D code dimension, K codebook size, g cells along a side.
"""
