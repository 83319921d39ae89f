"""Drifting fields: the papers' own, the normalised one, and what training with it does."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from golden import golden

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

KERNELS = {
    'gaussian': partial(gaussian, bandwidth=0.7),
    'laplace': partial(laplace, bandwidth=0.7),
}
every_kernel = pytest.mark.parametrize('kernel', KERNELS)

# The losses that train on batches of states, each with what it cannot do without.
LOSSES = {
    'mean shift': {'loss': mean_shift_loss, 'bandwidths': (0.1, 1.0)},
    'laplace': {'loss': mean_shift_loss, 'bandwidths': (0.1, 1.0), 'kernel': 'laplace'},
    'normalized': {'loss': normalized_drifting_loss, 'temperatures': (0.1, 1.0)},
}

of_mean_shift = ('bandwidths', 'kernel', 'root_d_units')
jitted_field = jax.jit(drifting_field, static_argnames='log_kernel')
jitted_normalized_field = jax.jit(normalized_field, static_argnames='temperatures')
jitted_mean_shift_field = jax.jit(mean_shift_field, static_argnames=of_mean_shift)


def normal(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def relative_error(value, expected):
    return np.linalg.norm(value - expected) / np.linalg.norm(expected)


@partial(jax.jit, static_argnames=('loss', 'temperatures', *of_mean_shift))
def loss_and_grads(arrays, loss=normalized_drifting_loss, state_mask=None, **options):
    """((mean loss, (loss, info)), gradients of the mean with respect to each of the arrays)."""

    def mean_loss(arrays):
        value, info = loss(**arrays, state_mask=state_mask, **options)
        return jnp.mean(value), (value, info)

    return jax.value_and_grad(mean_loss, has_aux=True)(arrays)


def arrays_of(generated, positives, **more):
    return {'generated': generated, 'positives': positives, **more}


# ---- The field of the papers ----


def test_gaussian_field_is_the_difference_of_kde_scores():
    """V = sigma^2 (grad log p_kde - grad log q_kde): drifting is a gradient flow."""

    def score(x, samples):
        log_kde = lambda x: jax.nn.logsumexp(-jnp.sum((x - samples) ** 2, axis=-1) / (2 * 0.3**2))  # noqa: E731
        return 0.3**2 * jax.vmap(jax.grad(log_kde))(x)

    x, positives, negatives = (normal(i, n, 3) for i, n in enumerate((6, 9, 5)))
    field = jitted_field(x, positives, negatives, partial(gaussian, bandwidth=0.3))
    expected = score(x, positives) - score(x, negatives)
    assert relative_error(field, expected) < 1e-4


@every_kernel
def test_field_turns_with_the_particles_and_changes_its_sign_with_the_sets(kernel):
    field = partial(jitted_field, log_kernel=KERNELS[kernel])
    x, p, q = sets = [normal(i, 5, 3) for i in range(3)]
    forward, turn = field(x, p, q), np.linalg.qr(normal(3, 3, 3))[0]
    np.testing.assert_allclose(field(*(s @ turn + 7 for s in sets)), forward @ turn, atol=1e-4)
    assert np.linalg.norm(forward) > 0.1
    np.testing.assert_array_equal(forward, -field(x, q, p))
    np.testing.assert_allclose(field(x, p, p[::-1]), 0.0, atol=1e-6)


def test_loss_only_moves_the_particles_and_by_their_field():
    log_kernel, sets = KERNELS['gaussian'], [normal(i, 5, 3) for i in range(3)]
    field = jitted_field(*sets, log_kernel)
    grad = jax.value_and_grad(partial(drifting_loss, log_kernel=log_kernel), argnums=(0, 1, 2))
    loss, grads = jax.jit(grad)(*sets)
    np.testing.assert_allclose(loss, np.mean(field**2), rtol=1e-5)
    np.testing.assert_allclose(grads[0], -2 * field / sets[0].size, atol=1e-7)
    assert not np.any(grads[1])
    assert not np.any(grads[2])


@every_kernel
def test_a_particle_far_from_all_samples_goes_to_the_nearest(kernel):
    samples = np.float32([[0, 0], [100, 0]])
    shift = jax.jit(partial(mean_shift, log_kernel=KERNELS[kernel]))
    np.testing.assert_allclose(shift(np.float32([1e4, 0]), samples), [100 - 1e4, 0], rtol=1e-6)


# Particles [G, D], and their positives [P, D]
PARTICLES = {
    'coincident': (np.zeros((4, 2)), np.zeros((3, 2))),
    'far away': (np.zeros((4, 2)), np.full((3, 2), 1e4)),
    'one far away': (np.eye(4, 2) * [1e4, 1], normal(0, 3, 2)),
    'single': (np.zeros((1, 1)), np.ones((1, 1))),
    'single on its positive': (np.ones((1, 1)), np.ones((1, 1))),
}


@every_kernel
def test_field_and_its_derivative_are_finite(kernel):
    field = partial(drifting_field, log_kernel=KERNELS[kernel])
    jacobian = jax.jit(jax.jacobian(field, argnums=(0, 1, 2)))
    for name, (x, positives) in PARTICLES.items():
        for values in jacobian(np.float32(x), np.float32(positives), np.float32(x)):
            assert np.all(np.isfinite(values)), name


# ---- The papers' field of a batch of states ----


def slow_mean_shift(x, ys, kernel, length):
    """The mean shift of x [D] to ys [n, D]."""
    distances = np.linalg.norm(ys - x, axis=-1)
    logits = -distances / length if kernel == 'laplace' else -(distances**2) / (2 * length**2)
    weights = np.exp(logits - logits.max())
    return weights @ (ys - x) / weights.sum()


@pytest.mark.parametrize(('kernel', 'root_d_units'), [('gaussian', False), ('laplace', True)])
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
        for sign, ys in ((1, positives), (-1, others)):
            expected[k, b, i] += sign * slow_mean_shift(x[b, i], ys, kernel, length)
    np.testing.assert_allclose(field, expected.sum(0), atol=1e-5)
    np.testing.assert_allclose(info['force'], np.mean(expected**2, axis=(1, 2, 3)), rtol=1e-4)


@pytest.mark.parametrize(
    ('case', 'kernel', 'bandwidth'),
    [('driftql', 'laplace', 0.5), ('driftql_noise_dim', 'gaussian', 0.2)],
)
def test_mean_shifts_agree_with_driftql(case, kernel, bandwidth):
    """Its public code (DT6A/driftql, 2da54d1)."""
    there = golden('driftql', case)
    params, batch, noise = (there[k] for k in ('params', 'batch', 'draws'))
    observations, positives = batch['observations'][:, None], batch['actions'][:, None]
    policy = partial(MLP((32, 32), 3).apply, {'params': params['actor']})
    particles = jnp.clip(policy(observations, noise['particles']), -1, 1)
    field, _ = jitted_mean_shift_field(
        particles, positives, bandwidths=(bandwidth,), kernel=kernel, root_d_units=True
    )
    length = lambda vectors: np.linalg.norm(vectors, axis=-1).mean()  # noqa: E731
    attraction = positives - particles
    for name, value in {
        'drift_norm': length(field),
        'drift_attract_norm': length(attraction),
        'drift_repel_norm': length(attraction - field),
    }.items():
        np.testing.assert_allclose(value, there['info']['actor'][name], rtol=1e-5)


def test_nothing_repels_a_particle_alone_and_nothing_attracts_it_to_weights_of_zero():
    x, p = normal(0, 3, 1, 4), normal(1, 3, 1, 4)
    field = partial(jitted_mean_shift_field, x, p, bandwidths=(0.1,))
    ones = np.ones((3, 1), np.float32)
    np.testing.assert_allclose(field(weight_positives=ones)[0], p - x, atol=1e-6)
    assert not np.any(field(weight_positives=0 * ones)[0])


def test_mean_shifts_take_particles_to_places_within_the_bounds_of_actions():
    x, p = np.tanh(normal(0, 5, 8, 3)), np.tanh(normal(1, 5, 1, 3))
    field, _ = jitted_mean_shift_field(x, p, bandwidths=(0.3,))
    assert np.abs(x + field).max() > 1
    step = np.clip(x + field, -1, 1) - x
    (loss, _), grads = loss_and_grads(arrays_of(x, p), loss=mean_shift_loss, bandwidths=(0.3,))
    np.testing.assert_allclose(loss, np.mean(step**2), rtol=1e-5)
    np.testing.assert_allclose(grads['generated'], -2 * step / x.size, rtol=1e-4, atol=1e-7)


# ---- The normalised field ----


@pytest.mark.parametrize('case', ['offline', 'topk', 'multi_temperature', 'negatives'])
def test_agrees_with_golden_vectors(case):
    there = golden('drift', case)
    names = ('generated', 'positives', 'negatives', 'weight_positives', 'weight_negatives')
    (_, (loss, info)), grads = loss_and_grads(
        {name: there[name] for name in names if name in there},
        temperatures=tuple(there['temperatures'].tolist()),
    )
    assert relative_error(loss, there['loss']) < 1e-4
    assert relative_error(grads['generated'], there['grad']) < 1e-4
    assert relative_error(info['scale'], there['scale']) < 1e-4
    assert relative_error(info['force'], there['raw']) < 1e-4


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
    weighted = np.mean([distances[b] * weights[b] for b in states])
    scale = weighted / np.mean([weights[b] for b in states])
    unit = max(scale / np.sqrt(dim), 1e-3)
    field, forces = np.zeros(generated.shape), []
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


@pytest.mark.parametrize(
    ('shape', 'temperatures'),  # B, G, P, M, D
    [((4, 3, 2, 2, 3), (0.1,)), ((3, 4, 1, 0, 2), (1.0, 50.0)), ((2, 1, 3, 1, 1), (0.02,))],
)
def test_agrees_with_a_slow_reference_whatever_the_weights_and_masks(shape, temperatures):
    rng = np.random.default_rng(0)
    B, G, P, M, D = shape
    for spread in (1e-3, 1.0, 1.0, 1.0, 100.0):
        x, p, n = (spread * rng.normal(size=(B, num, D)) for num in (G, P, M))
        weights = [rng.choice([0, 0.3, 1, 2], size=(B, num)) for num in (P, M)]
        mask = np.append(rng.integers(0, 2, size=B - 1), 1.0)
        field, unit, scale, force = slow_reference(x, p, n, *weights, mask, temperatures)
        arrays = arrays_of(
            x, p, negatives=n, weight_positives=weights[0], weight_negatives=weights[1]
        )
        with jax.enable_x64(True):
            (mean, (loss, info)), grads = loss_and_grads(
                arrays, state_mask=mask, temperatures=temperatures
            )
        np.testing.assert_allclose(info['scale'], scale, rtol=1e-6)
        np.testing.assert_allclose(info['force'], force, rtol=1e-6, atol=1e-20)
        np.testing.assert_allclose(loss, np.mean(field**2, axis=(1, 2)), rtol=1e-6, atol=1e-9)
        np.testing.assert_allclose(mean, np.mean(field**2), rtol=1e-6, atol=1e-9)
        expected = -2 * field / (field.size * unit)
        atol = 1e-6 / (field.size * unit)
        np.testing.assert_allclose(grads['generated'], expected, rtol=1e-5, atol=atol)


def test_normalized_field_turns_and_moves_and_stretches_with_the_particles():
    field = partial(jitted_normalized_field, temperatures=(0.1, 0.5))
    x, p = normal(0, 3, 4, 5), normal(1, 3, 2, 5)
    turn = np.linalg.qr(normal(2, 5, 5))[0]
    before, unit, _ = field(x, p)
    after, stretched_unit, _ = field(*(np.float32(3 * s @ turn + 7) for s in (x, p)))
    np.testing.assert_allclose(stretched_unit, 3 * unit, rtol=1e-3)
    assert relative_error(after, before @ turn) < 1e-2


@pytest.mark.parametrize('place', [0, 2.0**20])
def test_mean_loss_is_one_with_one_temperature_even_between_equal_sets(place):
    """So its value says nothing about training, but `info` does.

    Far from 0, x - sg(x + V) evaluated as written would round V away.
    """
    x, p = normal(0, 5, 4, 2) + place, normal(1, 5, 4, 2) + place
    for positives in (p, x):
        (mean, _), _ = loss_and_grads(arrays_of(x, positives), temperatures=(0.1,))
        np.testing.assert_allclose(mean, 1.0, rtol=1e-4)


# ---- What both have in common ----


@pytest.mark.parametrize('field', LOSSES)
def test_a_batchs_loss_and_its_gradient_are_finite(field):
    for name, particles in PARTICLES.items():
        x, positives = (np.float32(points)[None] for points in particles)
        arrays = arrays_of(x, positives, negatives=np.ones_like(x))
        for values in jax.tree.leaves(loss_and_grads(arrays, **LOSSES[field])):
            assert np.all(np.isfinite(values)), name


@pytest.mark.parametrize('field', ['mean shift', 'normalized'])
def test_only_particles_of_states_that_are_not_masked_have_a_gradient(field):
    mask = np.array([1, 0, 1, 1, 0], bool)
    options = LOSSES[field]
    arrays = arrays_of(
        normal(0, 5, 8, 3), normal(1, 5, 2, 3), negatives=normal(2, 5, 4, 3),
        weight_positives=normal(3, 5, 2) ** 2, weight_negatives=normal(4, 5, 4) ** 2,
    )  # fmt: skip

    def spoil(values, garbage, mask=mask):
        return np.where(mask.reshape(-1, *[1] * (values.ndim - 1)), values, np.float32(garbage))

    (mean, (_, info)), grads = clean = loss_and_grads(arrays, **options, state_mask=mask)
    for garbage in (1e6, np.nan, np.inf):
        spoiled = jax.tree.map(partial(spoil, garbage=garbage), arrays)
        found = loss_and_grads(spoiled, **options, state_mask=mask)
        jax.tree.map(np.testing.assert_array_equal, clean, found)
    particles = grads.pop('generated')
    assert np.any(particles)
    assert not np.any(particles[~mask])
    assert not any(np.any(grad) for grad in grads.values())

    alone = loss_and_grads({k: v[mask] for k, v in arrays.items()}, **options)
    # The mean shift's loss is a mean over the states that count. In the mean of the normalised
    # field's losses the others count as zero.
    share = 3 / 5 if field == 'normalized' else 1
    np.testing.assert_allclose(mean, share * alone[0][0], rtol=1e-5)
    np.testing.assert_allclose(particles[mask], share * alone[1]['generated'], rtol=1e-4, atol=1e-6)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5), info, alone[0][1][1])

    nothing = loss_and_grads(arrays, **options, state_mask=np.zeros(5, bool))
    assert not any(np.any(values) for values in jax.tree.leaves(nothing))


SHAPES = {
    'generated': (2, 3, 4),
    'positives': (2, 2, 4),
    'negatives': (2, 5, 4),
    'weight_positives': (2, 2),
    'weight_negatives': (2, 5),
    'state_mask': (2,),
}


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
def test_a_wrong_shape_is_refused_by_name(name, shape, wanted):
    for options in LOSSES.values():
        loss = partial(options['loss'], **{k: v for k, v in options.items() if k != 'loss'})
        call = lambda arrays, loss=loss: loss(**arrays)  # noqa: E731
        arrays = {k: jax.ShapeDtypeStruct(s, np.float32) for k, s in SHAPES.items()}
        jax.eval_shape(call, arrays)
        with pytest.raises(ValueError, match=r'^\w+ has shape .*: must be ') as error:
            jax.eval_shape(call, arrays | {name: jax.ShapeDtypeStruct(shape, np.float32)})
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
        loss_and_grads(arrays_of(np.ones((2, 3, 2)), np.ones((2, 1, 2))), **LOSSES[field] | options)


# ---- What it is for ----

CENTRES = np.float32([[1, 1], [-1, 1], [-1, -1], [1, -1]])
MASSES = np.float32([0.4, 0.3, 0.2, 0.1])
SPREAD = 0.15


@partial(jax.jit, static_argnames=('loss', 'sets', 'particles', 'positives'))
def train_generator(loss, sets=4, particles=32, positives=32):
    """4096 samples of z -> MLP -> R^2, trained with a drifting loss on draws of the mixture."""
    hidden = [layer for _ in range(2) for layer in (nn.Dense(64), nn.gelu)]
    network = nn.Sequential([*hidden, nn.Dense(2)])
    optimizer = optax.adam(optax.cosine_decay_schedule(8e-3, 500))
    init_key, train_key, sample_key = jax.random.split(jax.random.key(0), 3)
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
    (params, _), _ = jax.lax.scan(step, state, jax.random.split(train_key, 500))
    return network.apply(params, jax.random.normal(sample_key, (4096, 4)))


def masses_and_spreads(samples):
    """Share of samples nearest to each centre, and the deviation of those within three SPREADs."""
    distances = np.linalg.norm(samples[:, None] - CENTRES, axis=-1)
    nearest, near = np.argmin(distances, axis=1), np.min(distances, axis=1) < 3 * SPREAD
    masses = np.bincount(nearest, minlength=4) / len(samples)
    spreads = [np.mean(np.std(samples[near & (nearest == mode)], axis=0)) for mode in range(4)]
    return masses, np.array(spreads)


by_normalized = partial(normalized_drifting_loss, temperatures=(0.1,))


def by_mean_shift(x, y):
    """Half as large, so that no drifted position is cut at the bounds of actions."""
    return mean_shift_loss(x / 2, y / 2, bandwidths=(0.2,))


def test_drifting_alone_teaches_a_generator_a_mixture():
    masses, spreads = masses_and_spreads(np.asarray(train_generator(by_mean_shift)))
    np.testing.assert_allclose(masses, MASSES, atol=0.1)
    np.testing.assert_allclose(spreads, SPREAD, rtol=0.4)


def test_one_positive_at_a_time_teaches_the_mixture_by_one_field_and_its_mean_by_the_other():
    """As in DFP's data term: a mean shift to one sample cannot choose among samples."""
    one_each = {'sets': 32, 'particles': 8, 'positives': 1}
    samples = np.asarray(train_generator(by_normalized, **one_each))
    np.testing.assert_allclose(masses_and_spreads(samples)[0], MASSES, atol=0.1)
    samples = np.asarray(train_generator(by_mean_shift, **one_each))
    np.testing.assert_allclose(samples.mean(axis=0), MASSES @ CENTRES, atol=0.1)
    assert np.all(samples.std(axis=0) < 0.2)  # the mixture's is 1


def attraction_alone(x, y):
    """Half of the papers' field: particles move to local means of the positives."""
    log_kernel = partial(gaussian, bandwidth=0.4)
    shift = jax.vmap(jax.vmap(partial(mean_shift, log_kernel=log_kernel), (0, None)))(x, y)
    return (x - jax.lax.stop_gradient(x + shift)) ** 2, {}


def test_without_repulsion_the_generator_collapses():
    samples = np.asarray(train_generator(attraction_alone))
    near = samples[np.linalg.norm(samples[:, None] - CENTRES, axis=-1).min(axis=1) < 3 * SPREAD]
    assert len(near) > 2000
    assert np.nanmax(masses_and_spreads(samples)[1]) < SPREAD / 2
