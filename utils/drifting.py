"""Drifting fields: move the particles of a one-step generator until its distribution is the data's.

A field V attracts generated particles x to positives (samples of the target p) and repels them from
negatives (samples of the model q). A generator is trained by regressing its particles on their own
drifted positions, ||x - sg(x + V(x))||^2; V vanishes when the two sets of samples are the same.

Two fields are here:

- `drifting_field` and `drifting_loss`: the field of the papers, a difference of two mean shifts,
  written for one particle and lifted with `jax.vmap`. Short, and what the theory is about.
- `normalized_field` and `normalized_drifting_loss`: the field that agents train with. It adapts
  to the scale of the data and sums several temperatures; written for a batch of states.

Sources: Drifting Models (arXiv 2602.04770); Drifting Field Policy (arXiv 2605.07727), section
'Drifting Field for Distribution Matching', and the configurations published with it.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax.lax import stop_gradient

LogKernel = Callable[[jax.Array, jax.Array], jax.Array]


# ---- The field of the papers ----


def gaussian(x, y, bandwidth):
    """Log of the Gaussian kernel, -||x - y||^2 / (2 bandwidth^2), of x [D] and y [D]: a scalar."""
    return -jnp.sum((x - y) ** 2) / (2 * bandwidth**2)


def laplace(x, y, bandwidth):
    """Log of the Laplace kernel, -||x - y|| / bandwidth, of x [D] and y [D]: a scalar.

    Its gradient at x = y, where the norm has none, is 0.
    """
    squared = jnp.sum((x - y) ** 2)
    apart = squared > 0
    # The inner `where` keeps the infinite slope of sqrt(0) out of the backward pass.
    return -jnp.where(apart, jnp.sqrt(jnp.where(apart, squared, 1.0)), 0.0) / bandwidth


def mean_shift(x: jax.Array, ys: jax.Array, log_kernel: LogKernel) -> jax.Array:
    """Kernel-weighted mean displacement from one particle to a set: sum k(y - x) / sum k.

    With the Gaussian kernel this is bandwidth^2 * grad_x log KDE(x) (Cheng, 1995). Kernels are
    given by their logarithm, so the weights are a softmax: a particle far from every sample is
    moved towards the nearest one, where dividing sums of underflown kernels would give 0 / 0.

    Args:
        x: one particle [D].
        ys: samples [P, D], P >= 1.
        log_kernel: ([D], [D]) -> scalar, for instance `partial(gaussian, bandwidth=0.5)`.

    Returns:
        The shift [D].
    """
    weights = jax.nn.softmax(jax.vmap(lambda y: log_kernel(x, y))(ys))
    return jnp.sum(weights[:, None] * (ys - x), axis=0)


def drifting_field(x, positives, negatives, log_kernel: LogKernel) -> jax.Array:
    """Attraction to positives minus attraction to negatives, V = V_p^+ - V_q^-, at each particle.

    Anti-symmetric in the two sets, zero where they are the same. For a batch of states, vmap once
    more: `jax.vmap(partial(drifting_field, log_kernel=k))(x, positives, negatives)`.

    Args:
        x: particles [G, D].
        positives: samples of the target p [P, D].
        negatives: samples of the model q [M, D]; usually the particles themselves.
        log_kernel: see `mean_shift`.

    Returns:
        The field [G, D]. It is differentiable; `drifting_loss` stops its gradient.
    """

    def at_particle(particle):
        attraction = mean_shift(particle, positives, log_kernel)
        return attraction - mean_shift(particle, negatives, log_kernel)

    return jax.vmap(at_particle)(x)


def drifting_loss(x, positives, negatives, log_kernel: LogKernel) -> jax.Array:
    """Fixed-point regression ||x - sg(x + V(x))||^2, mean over entries; shapes of `drifting_field`.

    Returns:
        A scalar. Its gradient with respect to x [G, D] is -2 V / (G D), and nothing else has one.
    """
    field = stop_gradient(drifting_field(x, positives, negatives, log_kernel))
    return jnp.mean(_regression(x, field) ** 2)


# ---- The normalised field used for training ----


def normalized_field(
    generated: jax.Array,
    positives: jax.Array,
    negatives: jax.Array | None = None,
    *,
    temperatures: Sequence[float],
    weight_positives: jax.Array | None = None,
    weight_negatives: jax.Array | None = None,
    state_mask: jax.Array | None = None,
    positives_only: bool = False,
    negatives_only: bool = False,
) -> tuple[jax.Array, jax.Array, dict[str, jax.Array]]:
    """The drifting field in coordinates in which a typical distance is sqrt(D), of unit size.

    The targets of a state are its generated particles (as implicit negatives), its explicit
    negatives and its positives. Distances are measured in units of their mean over the batch,
    which is what the temperatures refer to; the field of each temperature is divided by its root
    mean square over the batch, and the fields are summed. No gradient flows through any of it.

    Args:
        generated: particles [B, G, D] of B states.
        positives: samples to be attracted to [B, P, D].
        negatives: explicit samples to be repelled from [B, M, D], in addition to the particles.
        temperatures: one field for each; static, positive.
        weight_positives: [B, P], 1 unless given. Weights multiply the pull of a target after the
            softmaxes: a target of weight 0 exerts none, but still takes its share from the others.
        weight_negatives: [B, M], 1 unless given. The particles always have weight 1.
        state_mask: [B]; states with 0 (or False) have no field, no part in any mean over the
            batch, and may hold anything, NaN included.
        positives_only: drop the repulsion; the particles still count when weights are normalised.
        negatives_only: only explicit negatives repel; the particles are not among the targets.

    Returns:
        field: [B, G, D], in units of `unit`.
        unit: the length (scalar) that coordinates are divided by.
        info: 'scale', the mean distance (scalar), and 'force' [len(temperatures)], the mean squared
            field of each temperature before it is normalised.

    Raises:
        ValueError: `temperatures` is empty or not positive, both options are set,
            `negatives_only` without negatives, or weights for negatives that are not given.
    """
    temperatures = tuple(float(temperature) for temperature in temperatures)
    _check_options(temperatures, negatives, weight_negatives, positives_only, negatives_only)
    num_states, num_particles, dim = generated.shape
    if negatives is None:
        negatives, weight_negatives = generated[:, :0], None
    sets = [(negatives, weight_negatives), (positives, weight_positives)]
    if not negatives_only:
        sets.insert(0, (generated, None))
    targets = jnp.concatenate([samples for samples, _ in sets], axis=1)
    weights = jnp.concatenate(
        [jnp.ones(y.shape[:2], generated.dtype) if w is None else w for y, w in sets], axis=1
    )
    particles, targets, weights = stop_gradient((generated, targets, weights))
    if state_mask is not None:
        state_mask = jnp.asarray(state_mask, bool).reshape(num_states, 1, 1)
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
    if not negatives_only:
        itself = jnp.eye(num_particles, targets.shape[1], dtype=distances.dtype)
        distances = distances + 100.0 * itself

    field, forces = jnp.zeros_like(particles), []
    for temperature in temperatures:
        coefficients = _coefficients(
            distances / temperature, weights, positives.shape[1], positives_only
        )
        # A fused sum: as a product of matrices an accelerator would round it to TF32.
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
    **options,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Fixed-point regression of particles on their drifted positions, by `normalized_field`.

    With one temperature the mean of the loss over the (unmasked) states is 1 by construction,
    whatever the particles do: log `info` instead.

    Args:
        generated, positives, negatives, state_mask, **options: see `normalized_field`.

    Returns:
        loss: [B], the mean over particles and dimensions; 0 for masked states. The gradient of its
            mean with respect to generated is -2 field / (B G D unit); nothing else has one.
        info: see `normalized_field`.

    Raises:
        ValueError: see `normalized_field`.
    """
    field, unit, info = normalized_field(
        generated, positives, negatives, state_mask=state_mask, **options
    )
    if state_mask is not None:
        keep = jnp.asarray(state_mask, bool).reshape(-1, 1, 1)
        generated = jnp.where(keep, generated, 0.0)
    return jnp.mean(_regression(generated / unit, field) ** 2, axis=(1, 2)), info


def _regression(x, field):
    """x - sg(x + field), grouped so that a small field does not drown in the rounding of x."""
    return (x - stop_gradient(x)) - field


def _batch_mean(values, state_mask):
    """Mean of values [B, ...] over all entries of unmasked states (0 if there are none)."""
    if state_mask is None:
        return jnp.mean(values)
    per_state = jnp.mean(values, axis=tuple(range(1, values.ndim)))
    keep = state_mask.reshape(-1)
    return jnp.sum(jnp.where(keep, per_state, 0.0)) / jnp.maximum(jnp.sum(keep), 1)


def _coefficients(distances, weights, num_positives, positives_only):
    """Signed pull of each target on each particle [B, G, N]; distances are those / temperature."""
    # Geometric mean of the softmaxes of -distances over particles and over targets.
    over_particles = jax.nn.logsumexp(-distances, axis=1, keepdims=True)
    over_targets = jax.nn.logsumexp(-distances, axis=2, keepdims=True)
    affinity = jnp.exp(-distances - 0.5 * (over_particles + over_targets))
    affinity = jnp.maximum(affinity, 1e-3) * weights
    repel, attract = jnp.split(affinity, [affinity.shape[2] - num_positives], axis=2)
    attraction = attract * jnp.sum(repel, axis=2, keepdims=True)
    repulsion = repel * jnp.sum(attract, axis=2, keepdims=True)
    if positives_only:
        repulsion = jnp.zeros_like(repulsion)
    return jnp.concatenate([-repulsion, attraction], axis=2)


def _check_options(temperatures, negatives, weight_negatives, positives_only, negatives_only):
    if not temperatures or not all(temperature > 0 for temperature in temperatures):
        raise ValueError(f'temperatures={temperatures}: give one or more positive numbers')
    if positives_only and negatives_only:
        raise ValueError('positives_only and negatives_only are both set: choose one')
    if negatives_only and (negatives is None or negatives.shape[1] == 0):
        raise ValueError('negatives_only=True: needs explicit negatives [B, M, D] with M >= 1')
    if weight_negatives is not None and negatives is None:
        raise ValueError('weight_negatives is given without negatives: pass both or neither')
