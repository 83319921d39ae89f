"""Drifting fields: move a one-step generator's particles until their distribution is the data's.

A field V attracts generated particles x to positives (samples of the target p) and repels them from
negatives (samples of the model q). A generator is trained by regression of its particles on their
own drifted positions, ||x - sg(x + V(x))||^2.

Two fields are here:

- The papers' field is the difference of two mean shifts, each with its own softmax. It is zero when
  the two sets are the same, and the theory covers this one. `drifting_field` computes it for one
  state and any two sets. `mean_shift_field` and `mean_shift_loss` train with it on a batch of
  states, where the other particles repel each particle.
- `normalized_field` and `normalized_drifting_loss` are the field of DFP's release. It adapts to
  the scale of the data and sums several temperatures. Each temperature adds a field whose root
  mean square over the batch is 1, even when the two sets are the same.

Shapes: B states, each with G generated particles, P positives and M negatives in D dimensions.

Sources: Drifting Models (arXiv 2602.04770); Drifting Field Policy (arXiv 2605.07727), section
'Drifting Field for Distribution Matching', and the configurations published with it; DriftQL
(arXiv 2606.00350), for single positives, units of sqrt(D) and the clipped target.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.lax import stop_gradient

from utils.shapes import check_shape

# ([D], [D]) -> scalar, for instance `partial(gaussian, bandwidth=0.5)`
LogKernel = Callable[[jax.Array, jax.Array], jax.Array]


# ---- The field of the papers ----


def gaussian(x: jax.Array, y: jax.Array, bandwidth: float) -> jax.Array:
    """Returns the log of the Gaussian kernel, -||x - y||^2 / (2 bandwidth^2), for x and y `[D]`."""
    return -jnp.sum((x - y) ** 2) / (2 * bandwidth**2)


def laplace(x: jax.Array, y: jax.Array, bandwidth: float) -> jax.Array:
    """Returns the log of the Laplace kernel, -||x - y|| / bandwidth, for x and y `[D]`.

    At x = y the norm has no gradient; this function's is 0 there.
    """
    squared = jnp.sum((x - y) ** 2)
    apart = squared > 0
    # The inner `where` keeps the infinite slope of sqrt(0) out of the backward pass.
    return -jnp.where(apart, jnp.sqrt(jnp.where(apart, squared, 1.0)), 0.0) / bandwidth


KERNELS = {'gaussian': gaussian, 'laplace': laplace}


def mean_shift(
    x: jax.Array, ys: jax.Array, log_kernel: LogKernel, weights: jax.Array | None = None
) -> jax.Array:
    """Returns the kernel-weighted mean of y - x over samples y: sum k(x, y) (y - x) / sum k(x, y).

    With the Gaussian kernel this is bandwidth^2 * grad_x log KDE(x) (Cheng, 1995). The weights are
    a softmax of log kernels, so a particle far from every sample moves to the nearest one. The
    kernels themselves would underflow there and give 0 / 0.

    Args:
        x: one particle `[D]`.
        ys: samples `[P, D]`, P >= 1.
        log_kernel: the logarithm of the kernel.
        weights: `[P]`, not negative, by default 1: factors of the kernel. Samples of weight 0 are
            left out; if all are, the shift is 0.

    Returns:
        The shift `[D]`.

    Raises:
        ValueError: a shape is wrong.
    """
    check_shape('x', x, '[D]')
    check_shape('ys', ys, '[P, D]', D=x.shape[0])
    logits = jax.vmap(lambda y: log_kernel(x, y))(ys)
    if weights is None:
        shares = jax.nn.softmax(logits)
    else:
        check_shape('weights', weights, '[P]', P=len(ys))
        counts = weights > 0
        logits = logits + jnp.log(jnp.where(counts, weights, 1.0))
        largest = jnp.max(jnp.where(counts, logits, jnp.finfo(logits.dtype).min))
        kernels = jnp.where(counts, jnp.exp(jnp.where(counts, logits - largest, 0.0)), 0.0)
        shares = kernels / jnp.maximum(kernels.sum(), 1.0)  # the largest kernel is 1, if any
    return jnp.sum(shares[:, None] * (ys - x), axis=0)


def drifting_field(
    x: jax.Array, positives: jax.Array, negatives: jax.Array, log_kernel: LogKernel
) -> jax.Array:
    """Returns the mean shift to positives minus that to negatives, V = V_p^+ - V_q^-.

    Exchanging the two sets changes its sign. For a batch of states, lift it once more:
    `jax.vmap(partial(drifting_field, log_kernel=k))(x, positives, negatives)`.

    Args:
        x: particles `[G, D]`.
        positives: samples of the target p `[P, D]`, P >= 1.
        negatives: samples of the model q `[M, D]`, M >= 1; usually the particles themselves.
        log_kernel: the logarithm of the kernel.

    Returns:
        The field `[G, D]`. It is differentiable; `drifting_loss` stops its gradient.

    Raises:
        ValueError: a shape is wrong.
    """
    check_shape('x', x, '[G, D]')
    check_shape('positives', positives, '[P, D]', D=x.shape[1])
    check_shape('negatives', negatives, '[M, D]', D=x.shape[1])

    def at_particle(particle):
        attraction = mean_shift(particle, positives, log_kernel)
        return attraction - mean_shift(particle, negatives, log_kernel)

    return jax.vmap(at_particle)(x)


def drifting_loss(
    x: jax.Array, positives: jax.Array, negatives: jax.Array, log_kernel: LogKernel
) -> jax.Array:
    """Returns the mean over entries of (x - sg(x + V(x)))^2, with V from `drifting_field`.

    Args:
        x, positives, negatives, log_kernel: as in `drifting_field`.

    Returns:
        A scalar. Its gradient with respect to x is -2 V / (G D); the rest has no gradient.

    Raises:
        ValueError: a shape is wrong.
    """
    field = drifting_field(x, positives, negatives, log_kernel)
    return jnp.mean(_regression(x, field) ** 2)


def mean_shift_field(
    generated: jax.Array,
    positives: jax.Array,
    negatives: jax.Array | None = None,
    *,
    bandwidths: Sequence[float],
    kernel: str = 'gaussian',
    root_d_units: bool = False,
    weight_positives: jax.Array | None = None,
    weight_negatives: jax.Array | None = None,
    state_mask: jax.Array | None = None,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Returns the papers' field for a batch of states, where particles repel each other.

    V_i = (mean shift of x_i to the positives) - (mean shift of x_i to x_j, j != i, and to the
    negatives), summed over bandwidths. No gradient flows through it. A single positive y pulls by
    y - x_i whatever the kernel, so there the bandwidth only affects repulsion.

    Args:
        generated: particles x `[B, G, D]`.
        positives: samples that attract the particles `[B, P, D]`.
        negatives: samples that repel the particles `[B, M, D]`, as the other particles do.
        bandwidths: one or more positive numbers, known when the program is compiled.
        kernel: 'gaussian' or 'laplace'.
        root_d_units: bandwidths are in units of sqrt(D), as in DriftQL, where typical distances
            grow with D. By default they are lengths, as in DFP's paper.
        weight_positives: `[B, P]`, by default 1: factors of the kernel, see `mean_shift`.
        weight_negatives: `[B, M]`, by default 1. The particles always have weight 1.
        state_mask: `[B]`. A state with 0 (or False) has no field, and `force` skips it. Its
            arrays may hold anything, even NaN.

    Returns:
        field: `[B, G, D]`.
        info: 'force' `[len(bandwidths)]`, the mean squared field of each bandwidth.

    Raises:
        ValueError: `bandwidths` is empty or not positive, the kernel is unknown,
            `weight_negatives` is given without negatives, or a shape is wrong.
    """
    _check_shapes(generated, positives, negatives, weight_positives, weight_negatives)
    _check_positive('bandwidths', bandwidths)
    _check_weights(negatives, weight_negatives)
    if kernel not in KERNELS:
        raise ValueError(f'kernel={kernel}: use {" or ".join(KERNELS)}')
    num_particles, dim = generated.shape[1:]
    repelling = [(generated, None)] + ([] if negatives is None else [(negatives, weight_negatives)])
    attract, repel = (
        _join_targets(sets, generated.dtype)
        for sets in ([(positives, weight_positives)], repelling)
    )
    arrays = generated, *attract, *repel
    if state_mask is not None:
        state_mask = _as_mask(state_mask, generated)
        arrays = [jnp.where(state_mask.reshape(-1, *[1] * (x.ndim - 1)), x, 0.0) for x in arrays]
    particles, positives, weight_positives, negatives, weight_negatives = stop_gradient(arrays)
    others = 1.0 - jnp.eye(num_particles, negatives.shape[1], dtype=particles.dtype)

    def at_particle(x, positives, weight_positives, negatives, weight_negatives, log_kernel):
        attraction = mean_shift(x, positives, log_kernel, weight_positives)
        return attraction - mean_shift(x, negatives, log_kernel, weight_negatives)

    field, forces = jnp.zeros_like(particles), []
    for bandwidth in bandwidths:
        length = bandwidth * dim**0.5 if root_d_units else bandwidth
        log_kernel = partial(KERNELS[kernel], bandwidth=length)
        at_particles = jax.vmap(
            partial(at_particle, log_kernel=log_kernel), in_axes=(0, None, None, None, 0)
        )
        shifts = jax.vmap(at_particles)(
            particles, positives, weight_positives, negatives, weight_negatives[:, None] * others
        )
        forces.append(_batch_mean(shifts**2, state_mask))
        field = field + shifts
    return field, {'force': jnp.stack(forces)}


def mean_shift_loss(
    generated: jax.Array,
    positives: jax.Array,
    negatives: jax.Array | None = None,
    *,
    state_mask: jax.Array | None = None,
    **options: Any,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Returns the mean squared distance of particles to their drifted positions.

    Drifted positions are clipped to [-1, 1], as actions are. The loss falls as particles settle.

    Args:
        generated, positives, negatives, state_mask, **options: as in `mean_shift_field`.

    Returns:
        loss: a scalar, the mean over states that are not masked, particles and dimensions; 0 if
            there are none. Only `generated` has a gradient.
        info: as in `mean_shift_field`.

    Raises:
        ValueError: as in `mean_shift_field`.
    """
    field, info = mean_shift_field(
        generated, positives, negatives, state_mask=state_mask, **options
    )
    if state_mask is not None:
        generated = jnp.where(_as_mask(state_mask, generated), generated, 0.0)
    step = jnp.clip(generated + field, -1, 1) - generated
    return _batch_mean(_regression(generated, step) ** 2, state_mask), info


# ---- The normalised field ----


def normalized_field(
    generated: jax.Array,
    positives: jax.Array,
    negatives: jax.Array | None = None,
    *,
    temperatures: Sequence[float],
    weight_positives: jax.Array | None = None,
    weight_negatives: jax.Array | None = None,
    state_mask: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array, dict[str, jax.Array]]:
    """Returns the drifting field for a batch of states, normalised over the batch.

    A state's N targets are its particles, which repel each other, its negatives and its positives.
    Temperatures are in units of the mean distance over the batch. The field of each temperature is
    divided by its root mean square over the batch; the result is their sum. No gradient flows
    through it.

    Args:
        generated: particles `[B, G, D]`.
        positives: samples that attract the particles `[B, P, D]`.
        negatives: samples that repel the particles `[B, M, D]`, as the particles do themselves.
        temperatures: one or more positive numbers, known when the program is compiled.
        weight_positives: `[B, P]`, by default 1. A weight multiplies the pull of its target after
            the softmaxes. So a target of weight 0 does not pull, but the softmaxes still give it a
            share that the others lose.
        weight_negatives: `[B, M]`, by default 1. The particles always have weight 1.
        state_mask: `[B]`. A state with 0 (or False) has no field, and all means over the batch
            skip it. Its arrays may hold anything, even NaN.

    Returns:
        field: `[B, G, D]`, in units of `unit`.
        unit: a length (scalar), the mean distance over sqrt(D).
        info: 'scale', the mean distance (scalar), and 'force' `[len(temperatures)]`, the mean
            squared field of each temperature before it is divided by its root.

    Raises:
        ValueError: `temperatures` is empty or not positive, `weight_negatives` is given without
            negatives, or a shape is wrong.
    """
    temperatures = tuple(float(temperature) for temperature in temperatures)
    _check_shapes(generated, positives, negatives, weight_positives, weight_negatives)
    _check_positive('temperatures', temperatures)
    _check_weights(negatives, weight_negatives)
    num_particles, dim = generated.shape[1:]
    sets = [(generated, None), (positives, weight_positives)]
    if negatives is not None:
        sets.insert(1, (negatives, weight_negatives))
    particles, targets, weights = stop_gradient((generated, *_join_targets(sets, generated.dtype)))
    if state_mask is not None:
        state_mask = _as_mask(state_mask, generated)
        # A masked state collapses to one point: no distance, no force, and no NaN to multiply.
        particles = jnp.where(state_mask, particles, 0.0)
        targets = jnp.where(state_mask, targets, 0.0)
        weights = jnp.where(state_mask[..., 0], weights, 0.0)
    weights = weights[:, None, :]

    # Differences, not ||x||^2 + ||y||^2 - 2xy, whose rounding is far above the floor of 1e-8.
    offsets = targets[:, None, :, :] - particles[:, :, None, :]  # [B, G, N, D]
    distances = jnp.sqrt(jnp.maximum(jnp.sum(offsets**2, axis=-1), 1e-8))  # [B, G, N]
    mean_weight = _batch_mean(weights, state_mask)
    scale = _batch_mean(distances * weights, state_mask) / jnp.maximum(mean_weight, 1e-8)
    unit = jnp.maximum(scale / dim**0.5, 1e-3)
    distances = distances / jnp.maximum(scale, 1e-3)
    itself = jnp.eye(num_particles, targets.shape[1], dtype=distances.dtype)
    distances = distances + 100.0 * itself

    field, forces = jnp.zeros_like(particles), []
    for temperature in temperatures:
        coefficients = _coefficients(distances / temperature, weights, positives.shape[1])
        # A fused sum: a GPU would round a matrix product to TF32.
        force = jnp.sum(coefficients[..., None] * offsets, axis=2) / unit
        forces.append(_batch_mean(force**2, state_mask))
        field = field + force / jnp.sqrt(jnp.maximum(forces[-1], 1e-8))
    return field, unit, {'scale': scale, 'force': jnp.stack(forces)}


def normalized_drifting_loss(
    generated: jax.Array,
    positives: jax.Array,
    negatives: jax.Array | None = None,
    *,
    state_mask: jax.Array | None = None,
    **options: Any,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Returns the squared distance of particles to their drifted positions, per state.

    With one temperature the mean over the (unmasked) states is always 1, because the field is
    normalised. To see progress, log `info`.

    Args:
        generated, positives, negatives, state_mask, **options: as in `normalized_field`.

    Returns:
        loss: `[B]`, the mean over particles and dimensions in units of `unit`; 0 for masked
            states. The gradient of its mean with respect to `generated` is
            -2 field / (B G D unit); the rest has no gradient.
        info: as in `normalized_field`.

    Raises:
        ValueError: as in `normalized_field`.
    """
    field, unit, info = normalized_field(
        generated, positives, negatives, state_mask=state_mask, **options
    )
    if state_mask is not None:
        generated = jnp.where(_as_mask(state_mask, generated), generated, 0.0)
    return jnp.mean(_regression(generated / unit, field) ** 2, axis=(1, 2)), info


def _regression(x, field):
    """Returns x - sg(x + field), without rounding a small field away beside a large x."""
    return (x - stop_gradient(x)) - stop_gradient(field)


def _as_mask(state_mask, generated):
    """Returns the mask of states as bool [B, 1, 1]."""
    state_mask = jnp.asarray(state_mask, bool)
    check_shape('state_mask', state_mask, '[B]', B=generated.shape[0])
    return state_mask.reshape(-1, 1, 1)


def _batch_mean(values, state_mask):
    """Returns the mean of values [B, ...] over the unmasked states, or 0 if there are none."""
    if state_mask is None:
        return jnp.mean(values)
    per_state = jnp.mean(values, axis=tuple(range(1, values.ndim)))
    keep = state_mask.reshape(-1)
    return jnp.sum(jnp.where(keep, per_state, 0.0)) / jnp.maximum(jnp.sum(keep), 1)


def _coefficients(distances, weights, num_positives):
    """Returns the signed pull of each target on each particle [B, G, N].

    Positives are the last targets. Distances [B, G, N] have been divided by the temperature.
    """
    # Geometric mean of the softmaxes of -distances over particles and over targets.
    over_particles = jax.nn.logsumexp(-distances, axis=1, keepdims=True)
    over_targets = jax.nn.logsumexp(-distances, axis=2, keepdims=True)
    affinity = jnp.exp(-distances - 0.5 * (over_particles + over_targets))
    affinity = jnp.maximum(affinity, 1e-3) * weights
    repel, attract = jnp.split(affinity, [affinity.shape[2] - num_positives], axis=2)
    attraction = attract * jnp.sum(repel, axis=2, keepdims=True)
    repulsion = repel * jnp.sum(attract, axis=2, keepdims=True)
    return jnp.concatenate([-repulsion, attraction], axis=2)


def _join_targets(sets, dtype):
    """Returns targets [B, N, D] and weights [B, N] of sets of (samples, weights or None)."""
    targets = jnp.concatenate([samples for samples, _ in sets], axis=1)
    weights = [
        jnp.ones(samples.shape[:2], dtype) if weight is None else weight for samples, weight in sets
    ]
    return targets, jnp.concatenate(weights, axis=1)


def _check_shapes(generated, positives, negatives, weight_positives, weight_negatives):
    check_shape('generated', generated, '[B, G, D]')
    num_states, _, dim = generated.shape
    check_shape('positives', positives, '[B, P, D]', B=num_states, D=dim)
    if weight_positives is not None:
        num = positives.shape[1]
        check_shape('weight_positives', weight_positives, '[B, P]', B=num_states, P=num)
    if negatives is None:
        return
    check_shape('negatives', negatives, '[B, M, D]', B=num_states, D=dim)
    if weight_negatives is not None:
        num = negatives.shape[1]
        check_shape('weight_negatives', weight_negatives, '[B, M]', B=num_states, M=num)


def _check_positive(name, values):
    if not values or not all(value > 0 for value in values):
        raise ValueError(f'{name}={values}: give one or more positive numbers')


def _check_weights(negatives, weight_negatives):
    if weight_negatives is not None and negatives is None:
        raise ValueError('weight_negatives is given without negatives: pass both or neither')
