"""The networks of the thesis that trained a VAE and a VQ-VAE on slices of IXI, layer by layer.

What is known of them: images of 128x128x1; kernel 4, stride 2, an output of half the size; Keras's defaults; for the
VAE five blocks (convolution, batch norm, leaky ReLU) and two dense layers to 1,024, mean and log variance side by side
on the flattened map; for the VQ-VAE six blocks and a 1x1 convolution to 16; and how many parameters Keras counts,
running means and variances of the batch norms included. With biases in all convolutions the counts come out exactly:

    VAE      weights 16 (1*16 + 16*32 + 32*64 + 64*256 + 256*1024) = 4,497,664, biases 1,392, batch norm 4 * 1,392,
             dense 2 (16,384 * 1,024 + 1,024)             = 38,061,104, of which 2 * 1,392 = 2,784 are not trained
    VQ-VAE   weights 16 (1*32 + 32*32 + 32*64 + 3*64*64) = 246,272, biases 320, batch norm 4 * 320,
             1x1 convolution 64 * 16 + 16                 = 248,912, of which 2 * 320 = 640 are not trained

Without biases both are too small, by 1,392 and by 320. That the decoders mirror the encoders is our reading; their last
layer is linear, on normalised images.

Batch norm averages over a batch in training. Whatever encodes or reconstructs runs in evaluation mode, with the running
averages, so that an image's codes do not depend on the other images of its batch.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from torch import Tensor, nn

VAE_CHANNELS = (16, 32, 64, 256, 1024)
VQVAE_CHANNELS = (32, 32, 64, 64, 64, 64)
VAE_STRIDE, VQVAE_STRIDE = 2 ** len(VAE_CHANNELS), 2 ** len(VQVAE_CHANNELS)
SLOPE = 0.3  # of Keras's LeakyReLU
EPSILON = 1e-3  # of Keras's BatchNormalization
MOMENTUM = 0.01  # what Keras calls momentum 0.99 is the share of the old average; torch names that of the new one


def down(channels: int, widths: Sequence[int]) -> list[nn.Module]:
    """Blocks that halve the resolution, (B, C, H, W) -> (B, widths[-1], H / 2^n, W / 2^n)."""
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise((channels, *widths)):
        layers += [nn.Conv2d(before, after, 4, stride=2, padding=1), *_normed(after)]  # padding 1: Keras's "same"
    return layers


def up(widths: Sequence[int], channels: int) -> list[nn.Module]:
    """The blocks of `down` the other way round, (B, widths[-1], h, w) -> (B, C, 2^n h, 2^n w); the last one is bare."""
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise((*reversed(widths), channels)):
        layers += [nn.ConvTranspose2d(before, after, 4, stride=2, padding=1), *_normed(after)]
    return layers[:-2]


def vqvae_encoder(channels: int, dim: int) -> nn.Sequential:
    """(B, C, H, W) -> latents (B, D, H / 64, W / 64)."""
    return nn.Sequential(*down(channels, VQVAE_CHANNELS), nn.Conv2d(VQVAE_CHANNELS[-1], dim, 1))


def vqvae_decoder(channels: int, dim: int) -> nn.Sequential:
    """Codes (B, D, h, w) -> (B, C, 64 h, 64 w)."""
    last = VQVAE_CHANNELS[-1]
    return nn.Sequential(nn.Conv2d(dim, last, 1), *_normed(last), *up(VQVAE_CHANNELS, channels))


def vae_trunk(channels: int) -> nn.Sequential:
    """(B, C, H, W) -> (B, 1024, H / 32, W / 32), which the dense layers see flattened."""
    return nn.Sequential(*down(channels, VAE_CHANNELS))


def vae_decoder(channels: int) -> nn.Sequential:
    """What a dense layer made of the latents, (B, 1024, h, w) -> (B, C, 32 h, 32 w)."""
    return nn.Sequential(*_normed(VAE_CHANNELS[-1]), *up(VAE_CHANNELS, channels))


def start_as_keras(*networks: nn.Module) -> None:
    """Give `networks` Keras's starting values: weights uniform after Glorot & Bengio (2010), biases 0."""
    for layer in (layer for network in networks for layer in network.modules()):
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
            assert layer.bias is not None, "the layers of the thesis have biases"
            nn.init.zeros_(layer.bias)


def count(network: nn.Module) -> tuple[int, int]:
    """Parameters as Keras counts them, running averages of batch norms included: (all, those that are not trained)."""
    trained = sum(parameter.numel() for parameter in network.parameters())
    averages: list[Tensor | None] = []
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            averages += [layer.running_mean, layer.running_var]
    fixed = sum(each.numel() for each in averages if each is not None)
    return trained + fixed, fixed


def _normed(channels: int) -> list[nn.Module]:
    return [nn.BatchNorm2d(channels, eps=EPSILON, momentum=MOMENTUM), nn.LeakyReLU(SLOPE)]
