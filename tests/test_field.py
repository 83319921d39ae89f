"""Pictures of the field, and the numbers in them."""

import dataclasses
import pathlib
import subprocess
import sys
from functools import partial

import jax
import numpy as np
import pytest
from PIL import Image

from agents.drifting import gaussian, mean_shift_field, normalized_field
from figures import field_problems as problems
from figures.field import Options, draw, training_snapshots
from utils.errors import UserError

ROOT = pathlib.Path(__file__).parent.parent
SIGMA, BETA = 0.1, 0.25


@pytest.fixture(scope='module')
def samples():
    """Samples of the old and of the tilted policy."""
    old = np.asarray(problems.sample_old_policy(jax.random.PRNGKey(0), 20_000))
    return old, problems.sample_tilted(np.random.default_rng(0), 20_000, BETA)


def relative(error, of):
    return float(np.linalg.norm(error) / np.linalg.norm(of))


# ---- numbers ------------------------------------------------------------------------------------


def test_the_fields_of_the_plane_are_densities(samples):
    line = np.linspace(-3, 3, 200)
    points = np.stack(np.meshgrid(line, line), axis=-1)
    for blur in (0.0, 0.3):
        density = np.exp(problems.log_old_policy(points, blur))
        assert density.sum() * (line[1] - line[0]) ** 2 == pytest.approx(1, abs=1e-3)
    # Means of samples are those of the densities.
    old, tilted = samples
    weights = np.exp(problems.log_tilted(points, BETA))
    mean = (weights[..., None] * points).sum((0, 1)) / weights.sum()
    np.testing.assert_allclose(tilted.mean(0), mean, atol=0.03)
    np.testing.assert_allclose(old.mean(0), problems.WEIGHTS @ problems.MODES, atol=0.03)


def test_the_policys_term_is_exactly_the_gradient_of_its_kde(samples):
    old, tilted = samples
    parts = problems.decompose(old[:50], tilted, old, SIGMA, BETA)
    kernel = lambda a, b: gaussian(a, b, SIGMA)  # noqa: E731
    shift = jax.jit(jax.vmap(lambda a: problems.mean_shift(a, old, kernel)))(old[:50])
    np.testing.assert_allclose(parts.of_policy, -shift, atol=1e-5)


def test_the_field_is_its_decomposition_up_to_the_kernels_blur(samples):
    old, tilted = samples
    x = tilted[:200]  # where there are positives
    parts = problems.decompose(x, tilted, old, SIGMA, BETA)
    assert relative(parts.field - parts.sum, parts.field) == pytest.approx(parts.error, rel=1e-4)
    assert parts.error < 0.3
    assert parts.cosine > 0.96
    # At π_θ = π_old the other two terms cancel, and the field climbs Q.
    assert relative(parts.of_old_policy + parts.of_policy, parts.field) < 0.2


def test_every_term_of_the_decomposition_counts(samples):
    old, tilted = samples
    elsewhere = np.float32(0.4 * np.random.default_rng(1).normal(size=old.shape))
    parts = problems.decompose(tilted[:200], tilted, elsewhere, SIGMA, BETA)
    assert parts.error < 0.3
    for left_out in (parts.of_values, parts.of_old_policy, parts.of_policy):
        assert relative(parts.field - (parts.sum - left_out), parts.field) > 2 * parts.error


@pytest.mark.parametrize('kernel', ['gaussian', 'laplace'])
def test_the_two_parts_of_the_mean_shift_field_are_the_field(kernel, samples):
    x, positives = samples[0][:20], samples[1][:4]
    options = {'bandwidths': (0.3,), 'kernel': kernel}
    whole = jax.jit(partial(mean_shift_field, **options))(x[None], positives[None])[0][0]
    attraction, repulsion = problems.make_parts(kernel, 0.3, ())(x, positives)
    np.testing.assert_allclose(attraction + repulsion, whole, atol=1e-6)
    np.testing.assert_allclose(problems.make_field(kernel, 0.3, ())(x, positives), whole, atol=1e-6)
    to_one, _ = problems.make_parts(kernel, 0.3, ())(x, positives[:1])
    np.testing.assert_allclose(to_one, positives[:1] - x, atol=1e-6)


@pytest.mark.parametrize('temperatures', [(0.1,), (0.05, 0.5)])
def test_the_two_parts_of_the_normalised_field_are_the_field(temperatures, samples):
    x, positives = samples[0][:20], samples[1][:4]
    parts = problems.make_parts('normalized', 1.0, temperatures)
    attraction, repulsion = map(np.asarray, parts(x, positives))
    whole = problems.make_field('normalized', 1.0, temperatures)(x, positives)
    normalized = jax.jit(partial(normalized_field, temperatures=temperatures))
    field, unit, _ = jax.device_get(normalized(x[None], positives[None]))
    np.testing.assert_allclose(attraction + repulsion, unit * field[0], atol=1e-5)
    np.testing.assert_array_equal(whole, unit * field[0])
    to_positives = positives.mean(0) - x.mean(0)
    assert np.vdot(attraction.mean(0), to_positives) > 0


def test_a_generator_starts_where_it_is_told_and_moves_to_the_target():
    targets = np.float32([0.5, -0.5] + 0.1 * np.random.default_rng(0).normal(size=(500, 2)))
    start = problems.Start('', (-1.0, 1.0), 0.2)
    field = problems.make_field('gaussian', 0.3, ())
    samples = problems.train(start, field, targets, 0, 3, 100, num_particles=32, num_samples=300)
    assert samples.shape == (3, 300, 2)
    np.testing.assert_allclose(samples[0].mean(0), start.centre, atol=0.05)
    np.testing.assert_allclose(samples[0].std(0), start.width, atol=0.05)
    np.testing.assert_allclose(samples[2].mean(0), (0.5, -0.5), atol=0.1)


@pytest.mark.parametrize('name', problems.TARGETS)
def test_targets_fill_the_plane_evenly(name):
    points = problems.TARGETS[name](np.random.default_rng(0), 4000)
    assert points.dtype == np.float32
    assert np.abs(points).max() < 1.05
    assert np.abs(points.mean(0)).max() < 0.05
    if name == 'checkerboard':
        squares = np.floor(2 * (points + 1)).astype(int)
        assert (squares.sum(1) % 2 == 0).all()
        assert len({tuple(square) for square in squares}) == 8


def test_the_field_grows_small_as_the_generator_learns():
    options = Options(output='a.gif', figure='training', updates=300)
    snapshots = list(training_snapshots(options, num_snapshots=4, num_samples=500))
    assert [snapshot.update for snapshot in snapshots] == [0, 75, 150, 225]
    sizes = [snapshot.decomposition.size for snapshot in snapshots]
    assert sizes[-1] < sizes[0]
    assert snapshots[0].decomposition.cosine > 0.8


# ---- pictures -----------------------------------------------------------------------------------


@pytest.mark.parametrize('kernel', ['laplace', 'normalized'])
def test_the_field_is_drawn_with_every_kernel(kernel, tmp_path):
    path = tmp_path / 'field.png'
    draw(Options(str(path), kernel=kernel, num_particles=3, num_candidates=4, top_k=4))
    with Image.open(path) as image:
        assert image.size[0] > 1000
        assert np.asarray(image.convert('L')).std() > 10


def test_the_same_seed_draws_the_same_and_another_one_does_not(tmp_path):
    contents = []
    for i, seed in enumerate((0, 0, 1)):
        path = tmp_path / f'{i}.png'
        draw(Options(str(path), seed=seed))
        contents.append(path.read_bytes())
    assert contents[0] == contents[1] != contents[2]


def test_training_is_animated_and_starts_are_drawn(tmp_path, monkeypatch):
    monkeypatch.setattr(problems, 'STARTS', problems.STARTS[1:2])
    monkeypatch.setattr(problems, 'TARGETS', {'two spirals': problems.spirals})
    draw(Options(str(tmp_path / 'starts.png'), 'starts', updates=2))
    assert (tmp_path / 'starts.png').stat().st_size > 10_000
    few = lambda options: training_snapshots(options, 2, 100, 5)  # noqa: E731
    monkeypatch.setattr('figures.field.training_snapshots', few)
    draw(Options(str(tmp_path / 'training.gif'), 'training', updates=2))
    with Image.open(tmp_path / 'training.gif') as image:
        assert image.size[0] > 800
        assert image.n_frames >= 2


def test_the_readmes_picture_is_small():
    assert (ROOT / 'docs' / 'field.png').stat().st_size < 300_000


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'figure': 'fields'}, '--figure=fields: use field or training or starts'),
        ({'kernel': 'cauchy'}, '--kernel=cauchy: use gaussian or laplace or normalized'),
        ({'output': 'field.mp4'}, '--output=field.mp4: must end in .png or .pdf or .svg'),
        ({'figure': 'training'}, '--output=field.png: must end in .mp4 or .gif'),
        ({'output': '/no/folder/a.png'}, '--output=/no/folder/a.png: /no/folder is no folder'),
        ({'bandwidth': 0.0}, '--bandwidth=0.0: must be above 0'),
        ({'bandwidth': float('nan')}, '--bandwidth=nan: must be above 0'),
        ({'beta': -1.0}, '--beta=-1.0: must be above 0'),
        ({'temperatures': (0.1, 0.0)}, '--temperatures=0.1,0: needs at least one, each above 0'),
        ({'temperatures': ()}, '--temperatures=: needs at least one, each above 0'),
        ({'top_k': 17}, '--top_k=17: must be from 1 to --num_candidates=16'),
        ({'top_k': 0}, '--top_k=0: must be from 1'),
        ({'num_particles': 0}, '--num_particles=0: must be at least 1'),
        ({'updates': 0}, '--updates=0: must be at least 1'),
        ({'seed': -1}, '--seed=-1: must be from 0'),
        (
            {'figure': 'training', 'output': 'a.gif', 'kernel': 'laplace'},
            '--kernel=laplace --figure=training: the decomposition holds for the Gaussian kernel',
        ),
    ],
)
def test_what_cannot_be_drawn_is_refused(changes, message):
    with pytest.raises(UserError) as error:
        draw(dataclasses.replace(Options(), **changes))
    assert str(error.value).startswith(message)


def test_the_program_answers_bad_input_with_one_line(tmp_path):
    command = [sys.executable, '-m', 'figures.field', '--temperatures=warm', '--output=a.png']
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 1
    assert result.stderr == '--temperatures=warm: must be numbers, such as 0.1,0.5\n'
