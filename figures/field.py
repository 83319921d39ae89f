"""Draws the drifting field of one state: what attracts a policy's samples, and what repels them.

    python -m figures.field --seed=4 --output=docs/field.png

Actions are points in the plane. The K best of N proposals attract particles, which repel each
other: the mean-shift field of `agents.drifting`.
"""

from functools import partial

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
from absl import app, flags, logging

from agents.drifting import gaussian, mean_shift, mean_shift_field

matplotlib.use('Agg')
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

FLAGS = flags.FLAGS
BLUE, ORANGE, RED, GREEN = '#0072B2', '#E69F00', '#D55E00', '#009E73'  # Okabe and Ito's
OLD_POLICY = r'$\pi_\mathrm{old}$'
EDGE = 1.2  # pictures show [−EDGE, EDGE]²

# The old policy: three modes of equal width; and the values of actions: two hills.
MODES = np.array([[-0.5, -0.4], [0.45, -0.45], [0.0, 0.5]])
WEIGHTS = np.array([0.4, 0.3, 0.3])
WIDTH = 0.25
HILLS = np.array([[0.55, 0.35], [-0.6, 0.35]])
HEIGHTS = np.array([1.0, 0.6])
HILL_WIDTH = 0.5
NUM_CANDIDATES, TOP_K, NUM_PARTICLES, BANDWIDTH = 16, 4, 16, 0.4


def values(actions: np.ndarray) -> np.ndarray:
    """Returns Q `[...]` of `actions [..., 2]`."""
    squared = np.sum((actions[..., None, :] - HILLS) ** 2, axis=-1)
    return np.sum(HEIGHTS * np.exp(-squared / (2 * HILL_WIDTH**2)), axis=-1)


def sample_old_policy(rng: jax.Array, num: int) -> np.ndarray:
    """Draws actions `[num, 2]` of π_old."""
    mode_rng, noise_rng = jax.random.split(rng)
    modes = jax.random.choice(mode_rng, jnp.asarray(MODES), (num,), p=jnp.asarray(WEIGHTS))
    return np.asarray(modes + WIDTH * jax.random.normal(noise_rng, (num, 2)))


def parts(x: np.ndarray, positives: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the field at particles `x [G, 2]` in two parts, attraction and repulsion."""
    log_kernel = partial(gaussian, bandwidth=BANDWIDTH)
    attraction = jax.vmap(lambda particle: mean_shift(particle, positives, log_kernel))(x)
    field, _ = mean_shift_field(x[None], positives[None], bandwidths=(BANDWIDTH,))
    return np.asarray(attraction), np.asarray(field[0] - attraction)


def draw(path: str, seed: int) -> None:
    """Draws proposals and their best, and the field's two parts and sum at the particles."""
    candidate_rng, particle_rng = jax.random.split(jax.random.PRNGKey(seed))
    candidates = sample_old_policy(candidate_rng, NUM_CANDIDATES)
    order = np.argsort(-values(candidates), stable=True)
    best, others = candidates[order[:TOP_K]], candidates[order[TOP_K:]]
    particles = sample_old_policy(particle_rng, NUM_PARTICLES)
    attraction, repulsion = parts(particles, best)

    with plt.rc_context({'font.size': 13}):
        figure, axes = plt.subplots(1, 4, figsize=(13.6, 4.1), layout='constrained')
        for ax in axes:
            _draw_values(ax)
        axes[0].scatter(*others.T, s=45, color='white', edgecolors='0.25', label='proposals')
        axes[0].scatter(
            *best.T, s=150, marker='*', color=ORANGE, edgecolors='0.2', label='the best'
        )
        axes[0].set_title(f'the {TOP_K} best of {NUM_CANDIDATES} by Q')
        axes[0].legend(loc='lower left', fontsize=11, handletextpad=0.2)
        for ax, arrows, title, colour in (
            (axes[1], attraction, 'attraction by the best', RED),
            (axes[2], repulsion, 'repulsion by each other', GREEN),
            (axes[3], attraction + repulsion, 'their sum moves particles', BLUE),
        ):
            ax.scatter(*best.T, s=150, marker='*', color=ORANGE, edgecolors='0.2', alpha=0.8)
            ax.scatter(*particles.T, s=28, color='white', edgecolors=BLUE, zorder=3)
            ax.quiver(
                *particles.T, *arrows.T, color=colour, angles='xy', scale_units='xy', scale=1,
                headwidth=3.5, headlength=4.5, headaxislength=4, minshaft=1.2, minlength=0.5,
                width=0.01, zorder=5,
            )  # fmt: skip
            ax.set_title(title)
        axes[3].scatter(*(particles + attraction + repulsion).T, s=28, color=BLUE, zorder=4)
        axes[0].set_xlabel(f'proposals of {OLD_POLICY}; shaded: Q', fontsize=11)
        axes[1].set_xlabel(f'mean shifts, Gaussian kernel of width {BANDWIDTH:g}', fontsize=11)
        axes[2].set_xlabel(f'{NUM_PARTICLES} particles of the policy', fontsize=11)
        axes[3].set_xlabel('hollow: before, filled: after', fontsize=11)
        figure.savefig(path, dpi=110)
    plt.close(figure)


def _draw_values(ax: Axes) -> None:
    """Shades the plane by Q."""
    line = np.linspace(-EDGE, EDGE, 120)
    shades = values(np.stack(np.meshgrid(line, line), axis=-1))
    ax.contourf(line, line, shades, levels=10, cmap='Greys', alpha=0.45)
    ax.set(xlim=(-EDGE, EDGE), ylim=(-EDGE, EDGE), xticks=[], yticks=[], aspect='equal')


def main(_) -> None:
    logging.set_verbosity(logging.WARNING)  # jax tells what it does not find
    draw(FLAGS.output, FLAGS.seed)
    print(f'Wrote {FLAGS.output}')


if __name__ == '__main__':
    flags.DEFINE_string('output', 'field.png', 'Picture to write: .png, .pdf or .svg.')
    flags.DEFINE_integer('seed', 0, 'Of all draws.', 0, 2**32 - 1)
    app.run(main)
