"""Encoders of observations, and random crops of images.

Source: IMPALA (Espeholt et al., 2018, arXiv 1802.01561), in the small form of FQL (arXiv
2502.02538); random crops as in DrQ (Kostrikov et al., 2020, arXiv 2004.13649).
"""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from utils.networks import default_init
from utils.spec import is_image

ENCODERS = ('', 'impala_small')
PADDING = 3  # largest shift of an image by a crop, in pixels


class Conv(nn.Module):
    """A convolution `[..., H, W, C] -> [..., H, W, features]`: 3 × 3 kernels, zero padding.

    On a CPU it is one product with all 3 × 3 patches, because XLA's own convolution is 16 times
    slower there in a loop of updates.
    """

    features: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = (3, 3, x.shape[-1], self.features)
        kernel = self.param('kernel', nn.initializers.xavier_uniform(), shape)
        bias = self.param('bias', nn.initializers.zeros_init(), (self.features,))
        images = x.reshape(-1, *x.shape[-3:])
        y = jax.lax.platform_dependent(images, kernel, cpu=_product, default=_convolution)
        return y.reshape(*x.shape[:-1], self.features) + bias


def _product(x: jax.Array, kernel: jax.Array) -> jax.Array:
    height, width = x.shape[-3:-1]
    padded = jnp.pad(x, [(0, 0), (1, 1), (1, 1), (0, 0)])
    patches = [padded[:, i : i + height, j : j + width] for i in range(3) for j in range(3)]
    return jnp.concatenate(patches, axis=-1) @ kernel.reshape(-1, kernel.shape[-1])


def _convolution(x: jax.Array, kernel: jax.Array) -> jax.Array:
    dimensions = ('NHWC', 'HWIO', 'NHWC')
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), 'SAME', dimension_numbers=dimensions)


class ImpalaSmall(nn.Module):
    """Convolutions `[..., H, W, C] uint8 -> [..., 512]`: three stacks of one residual block."""

    channels: Sequence[int] = (16, 32, 32)
    features: int = 512

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        x = images.astype(jnp.float32) / 255
        for size in self.channels:
            x = nn.max_pool(Conv(size)(x), (3, 3), strides=(2, 2), padding='SAME')
            x = x + Conv(size)(nn.relu(Conv(size)(nn.relu(x))))
        x = nn.relu(x).reshape(*x.shape[:-3], -1)
        return nn.gelu(nn.Dense(self.features, kernel_init=default_init)(x), approximate=True)


class Encoder(nn.Module):
    """Embeds an observation, an array or a dict of arrays, as one vector `[..., d_z]`.

    Each image has its own convolutions. Other entries are flattened.
    """

    axes: tuple[int, ...]  # of each entry, in the order of its leaves

    @nn.compact
    def __call__(self, observations: Any) -> jax.Array:
        parts = []
        for x, ndim in zip(jax.tree.leaves(observations), self.axes, strict=True):
            if ndim == 3 and x.dtype == jnp.uint8:
                parts.append(ImpalaSmall()(x))
            else:
                parts.append(x.astype(jnp.float32).reshape(*x.shape[: x.ndim - ndim], -1))
        return jnp.concatenate(parts, axis=-1)


def make_encoder(observation: Any) -> Encoder | None:
    """Returns the encoder for observations with these shapes, None if they are vectors."""
    leaves = jax.tree.leaves(observation)
    if len(leaves) == 1 and len(leaves[0].shape) == 1 and leaves[0].dtype == jnp.float32:
        return None
    return Encoder(tuple(len(x.shape) for x in leaves))


def crop(batch: dict[str, Any], rng: jax.Array, probability: float) -> dict[str, Any]:
    """Returns a batch whose images are, with some probability, shifted by up to three pixels.

    Images are padded with their edges and cropped at random. Each sample has its own offset, the
    same for `observations [B, ...]` and `next_observations`.
    """
    names = ('observations', 'next_observations')
    observed = {name: batch[name] for name in names}
    size = jax.tree.leaves(observed)[0].shape[0]
    crop_rng, offset_rng = jax.random.split(rng)
    offsets = jax.random.randint(offset_rng, (size, 2), 0, 2 * PADDING + 1)

    def crop_one(image, offset):
        padded = jnp.pad(image, [(PADDING, PADDING)] * 2 + [(0, 0)], mode='edge')
        return jax.lax.dynamic_slice(padded, (*offset, 0), image.shape)

    def crop_images(observed):
        return jax.tree.map(
            lambda x: jax.vmap(crop_one)(x, offsets) if is_image(x[0]) else x, observed
        )

    is_cropped = jax.random.bernoulli(crop_rng, probability)
    return batch | jax.lax.cond(is_cropped, crop_images, lambda x: x, observed)
