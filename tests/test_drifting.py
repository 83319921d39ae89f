"""Drifting fields: the papers' own, the normalised one, and what training with it does."""

import pathlib
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.traverse_util import unflatten_dict
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.drifting import (
    drifting_field,
    drifting_loss,
    gaussian,
    laplace,
    mean_shift,
    mean_shift_field,
    mean_shift_loss,
    normalized_drifting_loss,
    normalized_field,
)
from utils.networks import MLP

DATA = pathlib.Path(__file__).parent / 'data'
GOLDEN = np.load(DATA / 'drift_golden.npz')
# Policies, batches, draws and what they gave in DriftQL's public code (DT6A/driftql, 2da54d1).
DRIFTQL = np.load(DATA / 'driftql_golden.npz')
KERNELS = {
    'gaussian': partial(gaussian, bandwidth=0.7),
    'laplace': partial(laplace, bandwidth=0.7),
}
seeds = st.integers(0, 2**31 - 1)
few_examples = settings(max_examples=15, deadline=None)

# The losses that train on batches of states, each with what it cannot do without.
LOSSES = {
    'mean shift': {'loss': mean_shift_loss, 'bandwidths': (0.1, 1.0)},
    'laplace': {'loss': mean_shift_loss, 'bandwidths': (0.1, 1.0), 'kernel': 'laplace'},
    'normalized': {'loss': normalized_drifting_loss, 'temperatures': (0.1, 1.0)},
}
every_loss = pytest.mark.parametrize('field', LOSSES)

of_mean_shift = ('bandwidths', 'kernel', 'root_d_units')
jitted_field = jax.jit(drifting_field, static_argnames='log_kernel')
jitted_normalized_field = jax.jit(normalized_field, static_argnames='temperatures')
jitted_mean_shift_field = jax.jit(mean_shift_field, static_argnames=of_mean_shift)
jitted_loss_and_grads = jax.jit(
    jax.value_and_grad(drifting_loss, argnums=(0, 1, 2)), static_argnames='log_kernel'
)


def normal(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def rotation(seed, dim):
    return np.linalg.qr(normal(seed, dim, dim))[0]


def relative_error(value, expected):
    return np.linalg.norm(value - expected) / np.linalg.norm(expected)


@partial(jax.jit, static_argnames=('loss', 'temperatures', *of_mean_shift))
def loss_and_grads(generated, positives, negatives=None, loss=normalized_drifting_loss, **options):
    """((mean loss, (loss, info)), gradients of the mean with respect to all three sets)."""

    def mean_loss(generated, positives, negatives):
        value, info = loss(generated, positives, negatives, **options)
        return jnp.mean(value), (value, info)

    compute = jax.value_and_grad(mean_loss, argnums=(0, 1, 2), has_aux=True)
    return compute(generated, positives, negatives)


# ---- The field of the papers ----


@pytest.mark.parametrize('bandwidth', [0.3, 1.0])
def test_gaussian_field_is_the_difference_of_kde_scores(bandwidth):
    """V = sigma^2 (grad log p_kde - grad log q_kde): drifting is a gradient flow."""

    def log_kde(x, samples):
        return jax.nn.logsumexp(-jnp.sum((x - samples) ** 2, axis=-1) / (2 * bandwidth**2))

    with jax.enable_x64(True):
        x, positives, negatives = (normal(i, n, 3).astype(float) for i, n in enumerate((6, 9, 5)))
        field = jitted_field(x, positives, negatives, partial(gaussian, bandwidth=bandwidth))
        score = jax.jit(jax.vmap(jax.grad(log_kde), in_axes=(0, None)))
        to_positives = score(x, positives)
        expected = bandwidth**2 * (to_positives - score(x, negatives))
        alone, _ = jitted_mean_shift_field(x[None], positives[None], bandwidths=(bandwidth,))
        of_others = [score(x[i : i + 1], np.delete(x, i, axis=0))[0] for i in range(len(x))]
        expected_alone = bandwidth**2 * (to_positives - np.array(of_others))
    assert relative_error(field, expected) < 1e-5
    assert relative_error(alone[0], expected_alone) < 1e-5


def test_laplace_kernel_is_the_exponential_of_a_distance():
    x, y = np.float32([0, 0]), np.float32([3, 4])
    np.testing.assert_allclose(laplace(x, y, 0.5), -10.0, rtol=1e-6)
    np.testing.assert_allclose(gaussian(x, y, 0.5), -50.0, rtol=1e-6)


@pytest.mark.parametrize('kernel', KERNELS)
def test_field_is_antisymmetric_and_vanishes_when_the_sets_are_the_same(kernel):
    log_kernel = KERNELS[kernel]
    x, p, q = normal(0, 5, 4), normal(1, 6, 4), normal(2, 7, 4)
    forward = jitted_field(x, p, q, log_kernel)
    assert np.linalg.norm(forward) > 0.1
    np.testing.assert_array_equal(forward, -jitted_field(x, q, p, log_kernel))
    np.testing.assert_allclose(jitted_field(x, p, p[::-1], log_kernel), 0.0, atol=1e-6)


@pytest.mark.parametrize('kernel', KERNELS)
@few_examples
@given(seed=seeds, shift=st.floats(-10, 10))
def test_field_turns_and_moves_with_the_particles(kernel, seed, shift):
    field = partial(jitted_field, log_kernel=KERNELS[kernel])
    sets = [normal([seed, i], 5, 3) for i in range(3)]
    turn = rotation([seed, 3], 3)
    moved = field(*(np.float32(points @ turn + shift) for points in sets))
    np.testing.assert_allclose(moved, field(*sets) @ turn, atol=1e-4)


@pytest.mark.parametrize('kernel', KERNELS)
def test_a_particle_far_from_all_samples_goes_to_the_nearest(kernel):
    log_kernel = KERNELS[kernel]
    samples = np.float32([[0, 0], [100, 0]])
    shift = jax.jit(partial(mean_shift, log_kernel=log_kernel))(np.float32([1e4, 0]), samples)
    np.testing.assert_allclose(shift, [100 - 1e4, 0], rtol=1e-6)


def test_loss_only_moves_the_particles_and_by_their_field():
    log_kernel = KERNELS['gaussian']
    x, p, q = normal(0, 5, 4), normal(1, 6, 4), normal(2, 7, 4)
    field = jitted_field(x, p, q, log_kernel)
    loss, grads = jitted_loss_and_grads(x, p, q, log_kernel=log_kernel)
    np.testing.assert_allclose(loss, np.mean(field**2), rtol=1e-5)
    np.testing.assert_allclose(grads[0], -2 * field / x.size, atol=1e-7)
    assert not np.any(grads[1])
    assert not np.any(grads[2])


PARTICLES = {
    'coincident': (np.zeros((4, 2)), np.zeros((3, 2))),
    'single': (np.zeros((1, 1)), np.ones((1, 1))),
    'single on its positive': (np.ones((1, 1)), np.ones((1, 1))),
    'far away': (np.zeros((4, 2)), np.full((3, 2), 1e4)),
    'one far away': (np.eye(4, 2) * [1e4, 1], normal(0, 3, 2)),
}


@pytest.mark.parametrize('particles', PARTICLES)
@pytest.mark.parametrize('kernel', KERNELS)
def test_field_and_its_derivative_are_finite(kernel, particles):
    log_kernel = KERNELS[kernel]
    x, positives = map(np.float32, PARTICLES[particles])
    field = partial(drifting_field, log_kernel=log_kernel)
    jacobian = jax.jit(jax.jacobian(field, argnums=(0, 1, 2)))(x, positives, x)
    loss, grads = jitted_loss_and_grads(x, positives, x, log_kernel=log_kernel)
    for values in (*jacobian, loss, *grads):
        assert np.all(np.isfinite(values))


# ---- The papers' field of a batch of states ----


@pytest.mark.parametrize('kernel', KERNELS)
@pytest.mark.parametrize('root_d_units', [False, True])
def test_mean_shifts_are_the_field_of_each_particle_apart_from_itself(kernel, root_d_units):
    """Whole weights are samples that are there as many times: none, once, or more."""
    x, p, n = normal(0, 3, 4, 2), normal(1, 3, 3, 2), normal(2, 3, 2, 2)
    counts = np.array([[1, 0, 2], [3, 1, 1], [0, 0, 1]]), np.array([[0, 2], [1, 1], [0, 0]])
    field, info = jitted_mean_shift_field(
        x, p, n, bandwidths=(0.3, 1.0), kernel=kernel, root_d_units=root_d_units,
        weight_positives=np.float32(counts[0]), weight_negatives=np.float32(counts[1]),
    )  # fmt: skip
    expected = np.zeros((2, *x.shape))
    for k, b, i in np.ndindex(2, 3, 4):
        length = (0.3, 1.0)[k] * (2**0.5 if root_d_units else 1)
        positives, negatives = (
            np.repeat(s[b], c[b], axis=0) for s, c in zip((p, n), counts, strict=True)
        )
        others = np.concatenate([np.delete(x[b], i, axis=0), negatives])
        log_kernel = partial({'gaussian': gaussian, 'laplace': laplace}[kernel], bandwidth=length)
        expected[k, b, i] = drifting_field(x[b, i : i + 1], positives, others, log_kernel)[0]
    np.testing.assert_allclose(field, expected.sum(0), atol=1e-5)
    np.testing.assert_allclose(info['force'], np.mean(expected**2, axis=(1, 2, 3)), rtol=1e-4)


@pytest.mark.parametrize(
    ('case', 'kernel', 'bandwidth'),
    [('driftql', 'laplace', 0.5), ('driftql_noise_dim', 'gaussian', 0.2)],
)
def test_mean_shifts_agree_with_driftql(case, kernel, bandwidth):
    golden = {k.removeprefix(f'{case}/'): DRIFTQL[k] for k in DRIFTQL if k.startswith(f'{case}/')}
    names = {tuple(k.split('/')[2:]): k for k in golden if k.startswith('params/actor/')}
    params = unflatten_dict({path: golden[k] for path, k in names.items()})
    observations, noise = golden['batch/observations'][:, None], golden['draws/particles']
    particles = jnp.clip(MLP((32, 32), 3).apply({'params': params}, observations, noise), -1, 1)
    positives = golden['batch/actions'][:, None]
    options = {'bandwidths': (bandwidth,), 'kernel': kernel, 'root_d_units': True}
    loss, _ = mean_shift_loss(particles, positives, **options)
    field, _ = jitted_mean_shift_field(particles, positives, **options)
    length = lambda vectors: np.linalg.norm(vectors, axis=-1).mean()  # noqa: E731
    attraction = positives - particles
    for name, value in {
        'bc_drift_loss_raw': loss,
        'drift_norm': length(field),
        'drift_attract_norm': length(attraction),
        'drift_repel_norm': length(attraction - field),
    }.items():
        np.testing.assert_allclose(value, golden[f'info/actor/{name}'], rtol=1e-5)


def test_nothing_repels_a_particle_alone_and_nothing_attracts_it_to_weights_of_zero():
    x, p = normal(0, 3, 1, 4), normal(1, 3, 1, 4)
    field, _ = jitted_mean_shift_field(x, p, bandwidths=(0.1,))
    np.testing.assert_allclose(field, p - x, atol=1e-6)
    nothing = np.zeros((3, 1), np.float32)
    field, _ = jitted_mean_shift_field(x, p, bandwidths=(0.1,), weight_positives=nothing)
    np.testing.assert_array_equal(field, np.zeros_like(x))


def test_mean_shifts_take_particles_to_places_within_the_bounds_of_actions():
    x, p = np.tanh(normal(0, 5, 8, 3)), np.tanh(normal(1, 5, 1, 3))
    field, _ = jitted_mean_shift_field(x, p, bandwidths=(0.3,))
    assert np.abs(x + field).max() > 1
    step = np.clip(x + field, -1, 1) - x
    (loss, _), grads = loss_and_grads(x, p, loss=mean_shift_loss, bandwidths=(0.3,))
    np.testing.assert_allclose(loss, np.mean(step**2), rtol=1e-5)
    np.testing.assert_allclose(grads[0], -2 * step / x.size, rtol=1e-4, atol=1e-7)


# ---- The normalised field ----


@pytest.mark.parametrize('case', ['offline', 'topk', 'multi_temperature', 'negatives'])
def test_agrees_with_golden_vectors(case):
    golden = {key.split('/')[1]: GOLDEN[key] for key in GOLDEN if key.startswith(case + '/')}
    (_, (loss, info)), grads = loss_and_grads(
        golden['generated'],
        golden['positives'],
        golden.get('negatives'),
        temperatures=tuple(golden['temperatures'].tolist()),
        weight_positives=golden.get('weight_positives'),
        weight_negatives=golden.get('weight_negatives'),
    )
    assert relative_error(loss, golden['loss']) < 1e-4
    assert relative_error(grads[0], golden['grad']) < 1e-4
    assert relative_error(info['scale'], golden['scale']) < 1e-4
    assert relative_error(info['force'], golden['raw']) < 1e-4


def slow_reference(generated, positives, negatives, weight_positives, weight_negatives, mask,
                   temperatures):  # fmt: skip
    """The normalised field step by step, a state and a particle at a time.

    Returns (field [B, G, D], unit, scale, force [T]).
    """
    num_states, num_particles, dim = generated.shape
    states = [state for state in range(num_states) if mask[state]]
    targets, weights, distances = {}, {}, {}
    for b in states:
        targets[b] = np.array([*generated[b], *negatives[b], *positives[b]])
        weights[b] = np.array([1.0] * num_particles + [*weight_negatives[b], *weight_positives[b]])
        distances[b] = np.array(
            [[max(np.sum((x - y) ** 2), 1e-8) ** 0.5 for y in targets[b]] for x in generated[b]]
        )
    field = np.zeros(generated.shape)
    if not states:
        return field, 1e-3, 0.0, np.zeros(len(temperatures))

    weighted = np.mean([distances[b] * weights[b] for b in states])
    mean_weight = np.mean([weights[b] for b in states])
    scale = weighted / mean_weight if mean_weight > 0 else 0.0
    unit = max(scale / np.sqrt(dim), 1e-3)
    forces = []
    for temperature in temperatures:
        force = np.zeros(generated.shape)
        for b in states:
            logits = -distances[b] / max(scale, 1e-3) / temperature
            for i in range(num_particles):
                logits[i, i] -= 100 / temperature
            over_targets = np.exp(logits - logits.max(axis=1, keepdims=True))
            over_targets /= over_targets.sum(axis=1, keepdims=True)
            over_particles = np.exp(logits - logits.max(axis=0, keepdims=True))
            over_particles /= over_particles.sum(axis=0, keepdims=True)
            affinity = np.sqrt(np.maximum(over_targets * over_particles, 1e-6)) * weights[b]
            first_positive = len(targets[b]) - len(positives[b])
            for i, x in enumerate(generated[b]):
                repel = affinity[i, :first_positive].sum()
                attract = affinity[i, first_positive:].sum()
                for j, y in enumerate(targets[b]):
                    if j >= first_positive:
                        force[b, i] += affinity[i, j] * repel * (y - x) / unit
                    else:
                        force[b, i] -= affinity[i, j] * attract * (y - x) / unit
        forces.append(np.mean(force[states] ** 2))
        field += force / np.sqrt(max(forces[-1], 1e-8))
    return field, unit, scale, np.array(forces)


@few_examples
@given(st.data(), seeds)
def test_agrees_with_a_slow_reference_whatever_the_shapes_and_options(data, seed):
    rng = np.random.default_rng(seed)
    B, G, P, M, D = (data.draw(st.integers(low, 4), label='BGPMD') for low in (1, 1, 1, 0, 1))
    temperatures = data.draw(st.sampled_from([(0.02,), (0.1,), (1.0, 50.0)]))
    spread = data.draw(st.sampled_from([1e-3, 1.0, 100.0]), label='spread')
    sets = [spread * rng.normal(size=(B, n, D)) for n in (G, P, M)]
    weights = [np.ones((B, n)) for n in (P, M)]
    mask = np.ones(B)
    if data.draw(st.booleans(), label='weights'):
        weights = [rng.choice([0, 0.3, 1, 2], size=w.shape) for w in weights]
    if data.draw(st.booleans(), label='mask'):
        mask = rng.integers(0, 2, size=B).astype(float)
    field, unit, scale, force = slow_reference(*sets, *weights, mask, temperatures)

    with jax.enable_x64(True):
        (mean, (loss, info)), grads = loss_and_grads(
            *sets, temperatures=temperatures, weight_positives=weights[0],
            weight_negatives=weights[1], state_mask=mask,
        )  # fmt: skip
    np.testing.assert_allclose(info['scale'], scale, rtol=1e-6)
    np.testing.assert_allclose(info['force'], force, rtol=1e-6, atol=1e-20)
    np.testing.assert_allclose(loss, np.mean(field**2, axis=(1, 2)), rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(mean, np.mean(field**2), rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(
        grads[0], -2 * field / (field.size * unit), rtol=1e-5, atol=1e-6 / (field.size * unit)
    )


@few_examples
@given(seed=seeds, shift=st.floats(-10, 10), stretch=st.floats(0.1, 10))
def test_normalized_field_turns_and_moves_and_stretches_with_the_particles(seed, shift, stretch):
    field = partial(jitted_normalized_field, temperatures=(0.1, 0.5))
    x, p = normal([seed, 0], 3, 4, 5), normal([seed, 1], 3, 2, 5)
    turn = rotation([seed, 2], 5)
    before, unit, _ = field(x, p)
    after, stretched_unit, _ = field(
        *(np.float32(stretch * points @ turn + shift) for points in (x, p))
    )
    np.testing.assert_allclose(stretched_unit, stretch * unit, rtol=1e-3)
    assert relative_error(after, before @ turn) < 1e-2


@few_examples
@given(seed=seeds, temperature=st.sampled_from([0.02, 0.1, 1.0]))
def test_mean_loss_is_one_with_one_temperature(seed, temperature):
    """So its value says nothing about training, but `info` does."""
    sets = normal([seed, 0], 5, 8, 3), normal([seed, 1], 5, 2, 3)
    (mean, (_, info)), _ = loss_and_grads(*sets, temperatures=(temperature,))
    np.testing.assert_allclose(mean, 1.0, rtol=1e-4)
    assert np.all(info['force'] > 1e-8)


def test_normalized_field_keeps_its_length_between_equal_sets():
    sets = (normal(0, 5, 8, 3),) * 2
    field, _, _ = jitted_normalized_field(*sets, temperatures=(0.1,))
    np.testing.assert_allclose(np.mean(field**2), 1.0, rtol=1e-4)


def test_the_raw_force_falls_with_the_temperature_to_a_floor():
    """An affinity is never below 1e-3, so it does not reach 0.

    Distances have 7 digits: at T = 1e-5 logits are off by 0.01; far below, the force is noise.
    """
    sets = normal(0, 64, 8, 25), normal(1, 64, 1, 25)
    temperatures = 0.1, 1e-3, 1e-4, 1e-5
    force = jitted_normalized_field(*sets, temperatures=temperatures)[2]['force']
    assert force[0] > 3e-3
    assert force[1] < force[0] / 10
    np.testing.assert_allclose(force[2], force[3], rtol=5e-3)
    assert 1e-6 < force[2] < 1e-5


def test_normalized_loss_moves_the_particles_by_their_field():
    sets = normal(0, 5, 8, 3), normal(1, 5, 2, 3), normal(2, 5, 4, 3)
    field, unit, _ = jitted_normalized_field(*sets, temperatures=(0.1, 1.0))
    _, grads = loss_and_grads(*sets, temperatures=(0.1, 1.0))
    np.testing.assert_allclose(grads[0], -2 * field / (5 * 8 * 3 * unit), rtol=1e-4, atol=1e-7)


def test_small_fields_survive_large_coordinates():
    """x - sg(x + V), evaluated as written, would round V away."""
    x, p = normal(0, 4, 8, 2), normal(1, 4, 1, 2)
    (mean, _), _ = loss_and_grads(x + 2.0**20, p + 2.0**20, temperatures=(0.1,))
    np.testing.assert_allclose(mean, 1.0, rtol=1e-4)


def test_a_positive_of_weight_zero_exerts_no_pull_but_takes_its_share():
    """Weights come after the softmaxes: 0 is removal only for a positive too far away to have a
    share. In the mean distance 0 is always removal."""
    x, p = normal(0, 3, 8, 3), normal(1, 3, 2, 3)
    weights = np.float32([[1, 1, 0]] * 3)

    def field_with_third(positive):
        third = np.broadcast_to(np.float32(positive), (3, 1, 3))
        positives = np.concatenate([p, third], axis=1)
        return jitted_normalized_field(x, positives, weight_positives=weights, temperatures=(0.1,))

    removed, _, removed_info = jitted_normalized_field(x, p, temperatures=(0.1,))
    far, _, far_info = field_with_third(50.0)
    near, _, near_info = field_with_third(0.0)
    np.testing.assert_allclose(far, removed, atol=1e-5)
    np.testing.assert_allclose(far_info['scale'], removed_info['scale'], rtol=1e-5)
    np.testing.assert_allclose(near_info['scale'], removed_info['scale'], rtol=1e-5)
    assert relative_error(near, removed) > 1e-2

    nothing = np.zeros((3, 2), np.float32)
    alone, *_ = jitted_normalized_field(x, p, weight_positives=nothing, temperatures=(0.1,))
    np.testing.assert_array_equal(alone, np.zeros_like(x))


# ---- What both have in common ----


@every_loss
def test_nothing_but_the_particles_has_a_gradient(field):
    sets = normal(0, 5, 8, 3), normal(1, 5, 2, 3), normal(2, 5, 4, 3)
    weights = {'weight_positives': normal(3, 5, 2) ** 2, 'weight_negatives': normal(4, 5, 4) ** 2}
    options = LOSSES[field]
    _, grads = loss_and_grads(*sets, **weights, **options)
    assert np.any(grads[0])
    assert not np.any(grads[1])
    assert not np.any(grads[2])
    mean_loss = lambda weights: loss_and_grads(*sets, **weights, **options)[0][0]  # noqa: E731
    through_weights = jax.jit(jax.grad(mean_loss))(weights)
    assert not any(np.any(grad) for grad in through_weights.values())


@every_loss
@pytest.mark.parametrize('negatives', [None, np.ones((2, 2))])
@pytest.mark.parametrize('particles', PARTICLES)
def test_a_batchs_loss_and_its_gradient_are_finite(particles, negatives, field):
    x, positives = (np.float32(points)[None] for points in PARTICLES[particles])
    if negatives is not None:
        negatives = np.float32(negatives)[None, :, : x.shape[-1]]
    for values in jax.tree.leaves(loss_and_grads(x, positives, negatives, **LOSSES[field])):
        assert np.all(np.isfinite(values))


@every_loss
@pytest.mark.parametrize('garbage', [0.0, 1e6, np.nan, np.inf])
def test_masked_states_change_nothing(garbage, field):
    mask = np.array([1, 0, 1, 1, 0], bool)
    sets = normal(0, 5, 8, 3), normal(1, 5, 2, 3), normal(2, 5, 4, 3)
    weights = {'weight_positives': normal(3, 5, 2) ** 2, 'weight_negatives': normal(4, 5, 4) ** 2}
    options = LOSSES[field]

    def spoil(values):
        return np.where(mask.reshape(-1, *[1] * (values.ndim - 1)), values, np.float32(garbage))

    clean = loss_and_grads(*sets, **weights, **options, state_mask=mask)
    spoiled = loss_and_grads(
        *map(spoil, sets), **{k: spoil(v) for k, v in weights.items()}, **options, state_mask=mask
    )
    jax.tree.map(np.testing.assert_array_equal, clean, spoiled)

    (mean, (_, info)), grads = clean
    (mean_without, (_, info_without)), grads_without = loss_and_grads(
        *(values[mask] for values in sets), **{k: v[mask] for k, v in weights.items()}, **options
    )
    # The mean shift's loss is a mean over the states that count. In the mean of the normalised
    # field's losses the others count as zero.
    share = 3 / 5 if field == 'normalized' else 1
    np.testing.assert_allclose(mean, share * mean_without, rtol=1e-5)
    np.testing.assert_allclose(grads[0][mask], share * grads_without[0], rtol=1e-4, atol=1e-6)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5), info, info_without)
    assert not np.any(grads[0][~mask])


@every_loss
def test_a_batch_of_masked_states_has_no_loss(field):
    sets = np.full((3, 4, 2), np.nan), np.full((3, 1, 2), np.nan)
    (mean, (_, info)), grads = loss_and_grads(*sets, **LOSSES[field], state_mask=np.zeros(3))
    for values in (mean, grads[0], *info.values()):
        np.testing.assert_array_equal(values, np.zeros_like(values))


@every_loss
@pytest.mark.parametrize(
    ('name', 'shape', 'wanted'),
    [
        ('generated', (3, 4), '[B, G, D]'),
        ('generated', (2, 3, 1), '[B, P, D] with B=2, D=1'),  # the positives do not fit it
        ('positives', (1, 2, 4), '[B, P, D] with B=2, D=4'),
        ('negatives', (2, 2, 5), '[B, M, D] with B=2, D=4'),
        ('weight_positives', (2, 1), '[B, P] with B=2, P=2'),
        ('weight_negatives', (1, 5), '[B, M] with B=2, M=5'),
        ('state_mask', (2, 1), '[B] with B=2'),
    ],
)
def test_a_wrong_shape_is_refused_by_name(name, shape, wanted, field):
    arrays = {
        'generated': np.ones((2, 3, 4)),
        'positives': np.ones((2, 2, 4)),
        'negatives': np.ones((2, 5, 4)),
        'weight_positives': np.ones((2, 2)),
        'weight_negatives': np.ones((2, 5)),
        'state_mask': np.ones(2),
    }
    loss_and_grads(**arrays, **LOSSES[field])
    with pytest.raises(ValueError, match=r'^\w+ has shape .*: must be ') as error:
        loss_and_grads(**arrays | {name: np.ones(shape)}, **LOSSES[field])
    assert str(error.value).endswith(f'must be {wanted}')


@pytest.mark.parametrize(
    ('field', 'options', 'message'),
    [
        ('normalized', {'temperatures': ()}, 'one or more positive'),
        ('normalized', {'temperatures': (float('nan'),)}, 'one or more positive'),
        ('mean shift', {'bandwidths': (0.1, -0.1)}, 'one or more positive'),
        ('mean shift', {'kernel': 'cauchy'}, 'kernel=cauchy: use gaussian or laplace'),
        ('normalized', {'weight_negatives': np.ones((2, 1))}, 'without negatives'),
        ('mean shift', {'weight_negatives': np.ones((2, 1))}, 'without negatives'),
    ],
)
def test_impossible_options_are_refused(field, options, message):
    with pytest.raises(ValueError, match=message):
        loss_and_grads(np.ones((2, 3, 2)), np.ones((2, 1, 2)), **LOSSES[field] | options)


# ---- What it is for ----

CENTRES = np.float32([[1, 1], [-1, 1], [-1, -1], [1, -1]])
MASSES = np.float32([0.4, 0.3, 0.2, 0.1])
SPREAD = 0.15


def train_generator(key, loss, steps=500, sets=4, particles=32, positives=32):
    """4096 samples of z -> MLP -> R^2, trained with a drifting loss on draws of the mixture."""
    hidden = [layer for _ in range(3) for layer in (nn.Dense(64), nn.gelu)]
    network = nn.Sequential([*hidden, nn.Dense(2)])
    optimizer = optax.adam(optax.cosine_decay_schedule(4e-3, steps))
    init_key, train_key, sample_key = jax.random.split(key, 3)
    params = network.init(init_key, jnp.zeros((1, 4)))

    def mixture(key):
        mode_key, noise_key = jax.random.split(key)
        modes = jax.random.choice(mode_key, 4, (sets, positives), p=MASSES)
        noise = SPREAD * jax.random.normal(noise_key, (sets, positives, 2))
        return jnp.take(CENTRES, modes, axis=0) + noise

    def step(state, key):
        params, moments = state
        z_key, data_key = jax.random.split(key)
        z = jax.random.normal(z_key, (sets, particles, 4))

        def mean_loss(params):
            return jnp.mean(loss(network.apply(params, z), mixture(data_key))[0])

        updates, moments = optimizer.update(jax.grad(mean_loss)(params), moments)
        return (optax.apply_updates(params, updates), moments), None

    state = params, optimizer.init(params)
    (params, _), _ = jax.lax.scan(step, state, jax.random.split(train_key, steps))
    return network.apply(params, jax.random.normal(sample_key, (4096, 4)))


def masses_and_spreads(samples):
    """Share of samples nearest to each centre, and the deviation of those within three SPREADs."""
    distances = np.linalg.norm(samples[:, None] - CENTRES, axis=-1)
    nearest, near = np.argmin(distances, axis=1), np.min(distances, axis=1) < 3 * SPREAD
    masses = np.bincount(nearest, minlength=4) / len(samples)
    spreads = [
        np.mean(np.std(samples[near & (nearest == mode)], axis=0))
        for mode in range(4)
        if masses[mode] > 0.02
    ]
    return masses, np.array(spreads)


def train_generators(loss, **sizes):
    keys = jax.random.split(jax.random.key(0), 3)
    return np.asarray(jax.jit(jax.vmap(partial(train_generator, loss=loss, **sizes)))(keys))


by_normalized = partial(normalized_drifting_loss, temperatures=(0.1,))


def by_mean_shift(x, y):
    """Half as large, so that no drifted position is cut at the bounds of actions."""
    return mean_shift_loss(x / 2, y / 2, bandwidths=(0.2,))


@pytest.mark.parametrize('loss', [by_normalized, by_mean_shift])
def test_drifting_alone_teaches_a_generator_a_mixture(loss):
    for samples in train_generators(loss):
        masses, spreads = masses_and_spreads(samples)
        np.testing.assert_allclose(masses, MASSES, atol=0.1)
        assert len(spreads) == 4
        np.testing.assert_allclose(spreads, SPREAD, rtol=0.4)


def test_one_positive_at_a_time_teaches_the_mixture_by_one_field_and_its_mean_by_the_other():
    """As in DFP's data term: a mean shift to one sample cannot choose among samples."""
    one_each = {'sets': 32, 'particles': 8, 'positives': 1}
    for samples in train_generators(by_normalized, **one_each):
        np.testing.assert_allclose(masses_and_spreads(samples)[0], MASSES, atol=0.1)
    for samples in train_generators(by_mean_shift, **one_each):
        np.testing.assert_allclose(samples.mean(axis=0), MASSES @ CENTRES, atol=0.1)
        assert np.all(samples.std(axis=0) < 0.2)  # the mixture's is 1


def attraction_alone(x, y):
    """Half of the papers' field: particles move to local means of the positives."""
    log_kernel = partial(gaussian, bandwidth=0.4)
    shift = jax.vmap(jax.vmap(partial(mean_shift, log_kernel=log_kernel), (0, None)))(x, y)
    return (x - jax.lax.stop_gradient(x + shift)) ** 2, {}


def test_without_repulsion_the_generator_collapses():
    for samples in train_generators(attraction_alone):
        assert np.all(masses_and_spreads(samples)[1] < SPREAD / 2)
