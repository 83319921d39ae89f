"""Networks: MLPs on inputs that are concatenated without a copy."""

from collections.abc import Callable, Sequence
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

default_init = nn.initializers.variance_scaling(1.0, 'fan_avg', 'uniform')


class ConcatDense(nn.Module):
    """A dense layer on the concatenation of its inputs.

    `concat(a, b) @ W` is computed as `a @ W_a + b @ W_b`, so the inputs' leading axes only need to
    broadcast: an observation `[B, 1, d_s]` with N chunks `[B, N, D]` is multiplied once, not N
    times.
    """

    features: int

    @nn.compact
    def __call__(self, *inputs: jax.Array) -> jax.Array:
        sizes = [x.shape[-1] for x in inputs]
        kernel = self.param('kernel', default_init, (sum(sizes), self.features))
        bias = self.param('bias', nn.initializers.zeros_init(), (self.features,))
        outputs, start = bias, 0
        for x, size in zip(inputs, sizes, strict=True):
            outputs = outputs + x @ kernel[start : start + size]
            start += size
        return outputs


class LayerNorm(nn.Module):
    """Layer normalisation over the last axis (Ba et al., 2016, arXiv 1607.06450)."""

    epsilon: float = 1e-6

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        size = x.shape[-1]
        scale = self.param('scale', nn.initializers.ones_init(), (size,))
        bias = self.param('bias', nn.initializers.zeros_init(), (size,))
        # Row means as products with a constant vector: on CPU, XLA's reduction over the last axis
        # is very slow; elsewhere both cost the same.
        average = jnp.full((size, 1), 1 / size, x.dtype)
        mean = jnp.matmul(x, average, precision=jax.lax.Precision.HIGHEST)
        centred = x - mean
        variance = jnp.matmul(centred**2, average, precision=jax.lax.Precision.HIGHEST)
        return centred * jax.lax.rsqrt(variance + self.epsilon) * scale + bias


class MLP(nn.Module):
    """Dense layers with GELU (tanh form), optionally followed by LayerNorm, and a linear output.

    Inputs `[..., d_1], [..., d_2], …` are concatenated along the last axis; their leading axes
    broadcast. The output is `[..., output_dim]`.
    """

    hidden_dims: Sequence[int]
    output_dim: int
    layer_norm: bool = False

    @nn.compact
    def __call__(self, *inputs: jax.Array) -> jax.Array:
        x = inputs
        for size in self.hidden_dims:
            hidden = nn.gelu(ConcatDense(size)(*x), approximate=True)
            x = (LayerNorm()(hidden) if self.layer_norm else hidden,)
        return ConcatDense(self.output_dim)(*x)


class Critic(nn.Module):
    """An ensemble of E state-action value functions.

    The members are separate networks with their own parameters. On CPU they run one by one: plain
    matrix products are 1.6 times as fast as batched ones. Elsewhere, three or more members are
    stacked and run as one batched network, because each separate member would add its own kernels.
    `is_apart` disables stacking, for programs that must be identical on all devices.
    """

    hidden_dims: Sequence[int]
    num_qs: int = 2
    layer_norm: bool = True
    is_apart: bool = False

    @nn.compact
    def __call__(self, observations: jax.Array, chunks: jax.Array) -> jax.Array:
        """Returns `Q_e(s, chunk) [E, ...]` for `observations [..., d_s]`, `chunks [..., D]`."""
        members = [
            MLP(self.hidden_dims, 1, self.layer_norm, name=f'member_{i}')
            for i in range(self.num_qs)
        ]
        if self.num_qs <= 2 or self.is_apart or self.is_initializing():
            values = [member(observations, chunks) for member in members]
            return jnp.stack([jnp.squeeze(value, -1) for value in values])
        apply = MLP(self.hidden_dims, 1, self.layer_norm, parent=None).apply
        params = [member.variables for member in members]
        return jax.lax.platform_dependent(
            params,
            observations,
            chunks,
            cpu=partial(_apart, apply),
            default=partial(_batched, apply),
        )


def _apart(apply: Callable, params: list, *inputs: jax.Array) -> jax.Array:
    """Returns the outputs `[E, ...]` of a network with one output, for each set of parameters."""
    return jnp.stack([jnp.squeeze(apply(each, *inputs), -1) for each in params])


def _batched(apply: Callable, params: list, *inputs: jax.Array) -> jax.Array:
    """Returns the same as `_apart`, with batched products."""
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *params)
    return jnp.squeeze(jax.vmap(lambda each: apply(each, *inputs))(stacked), -1)
