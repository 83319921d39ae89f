"""Draws the drifting field: what moves a policy's samples, and where to.

    python -m figures.field --seed=4 --output=docs/field.png
    python -m figures.field --figure=training --output=training.mp4
    python -m figures.field --figure=starts --output=starts.png

`field`: one state, two-dimensional actions; the K best of N proposals attract the particles, which
repel each other. `training`: an animation of a one-step generator that learns the tilted policy,
with its field compared to the theory's decomposition. `starts`: generators that start in the
middle, far away and collapsed, on a checkerboard and two spirals.
"""

import dataclasses
import pathlib
import sys
from collections.abc import Iterator

import jax
import matplotlib
import numpy as np
from absl import app, flags, logging

from figures import field_problems as problems
from training.clips import SUFFIXES, check_path, write_video
from utils.errors import UserError

matplotlib.use('Agg')
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

BLUE, ORANGE, RED, GREEN = '#0072B2', '#E69F00', '#D55E00', '#009E73'  # Okabe and Ito
PICTURES = ('.png', '.pdf', '.svg')
FIGURES = {'field': PICTURES, 'training': SUFFIXES, 'starts': PICTURES}
BANDWIDTHS = {'field': 0.4, 'training': 0.1, 'starts': 0.12}  # defaults
UPDATES = {'field': 1, 'training': 600, 'starts': 1_500}
OLD_POLICY = r'$\pi_\mathrm{old}$'
DECOMPOSITION = (
    r'$(\sigma^2/\beta)\,\nabla Q + \sigma^2 (\nabla \log\pi_\mathrm{old} - \nabla \log\pi_\theta)$'
)
ARROW = 0.2  # root mean square length of arrows in the animation
EDGE = 1.2  # pictures show [−EDGE, EDGE]²
FPS = 12


@dataclasses.dataclass(frozen=True)
class Options:
    """What to draw. The fields are the program's flags, documented in `HELP`."""

    output: str = 'field.png'
    figure: str = 'field'
    kernel: str = 'gaussian'
    bandwidth: float | None = None
    temperatures: tuple[float, ...] = (0.1,)
    beta: float = 0.25
    num_candidates: int = 16
    top_k: int = 4
    num_particles: int = 16
    updates: int | None = None
    seed: int = 0

    @property
    def width(self) -> float:
        """The kernel's bandwidth: the one given, or the figure's own."""
        return BANDWIDTHS[self.figure] if self.bandwidth is None else self.bandwidth

    @property
    def num_updates(self) -> int:
        """Updates of a generator: those given, or the figure's own."""
        return UPDATES[self.figure] if self.updates is None else self.updates

    @property
    def field(self) -> problems.Field:
        """The field that trains generators."""
        return problems.make_field(self.kernel, self.width, self.temperatures)

    @property
    def parts(self) -> problems.Parts:
        """The same field as attraction and repulsion."""
        return problems.make_parts(self.kernel, self.width, self.temperatures)

    @property
    def label(self) -> str:
        """The field, in words."""
        if self.kernel == 'normalized':
            return 'normalised field, T = ' + ', '.join(f'{t:g}' for t in self.temperatures)
        return f'mean shifts, {self.kernel.capitalize()} kernel of width {self.width:g}'

    def check(self) -> None:
        """Raises UserError if an option has an invalid value."""
        for name, choices in (('figure', FIGURES), ('kernel', problems.KERNELS)):
            if getattr(self, name) not in choices:
                raise UserError(f'--{name}={getattr(self, name)}: use {" or ".join(choices)}')
        check_path(self.output, 'output', FIGURES[self.figure])
        for name, value in (('bandwidth', self.width), ('beta', self.beta)):
            if not 0 < value < float('inf'):
                raise UserError(f'--{name}={value}: must be above 0')
        if not self.temperatures or not all(0 < t < float('inf') for t in self.temperatures):
            given = ','.join(f'{t:g}' for t in self.temperatures)
            raise UserError(f'--temperatures={given}: needs at least one, each above 0')
        if not 1 <= self.top_k <= self.num_candidates:
            raise UserError(
                f'--top_k={self.top_k}: must be from 1 to --num_candidates={self.num_candidates}'
            )
        for name, value in (('num_particles', self.num_particles), ('updates', self.num_updates)):
            if value < 1:
                raise UserError(f'--{name}={value}: must be at least 1')
        if not 0 <= self.seed < 2**32:
            raise UserError(f'--seed={self.seed}: must be from 0 to {2**32 - 1}')
        if self.figure == 'training' and self.kernel != 'gaussian':
            raise UserError(
                f'--kernel={self.kernel} --figure=training: the decomposition holds for the '
                'Gaussian kernel only; use --kernel=gaussian, or another figure'
            )


def draw(options: Options) -> None:
    """Draws a figure into `options.output`.

    Raises:
        UserError: the figure is unknown or cannot be written.
    """
    options.check()
    {'field': draw_field, 'training': draw_training, 'starts': draw_starts}[options.figure](options)


# ---- the field of one state ---------------------------------------------------------------------


def draw_field(options: Options) -> None:
    """Draws the proposals, the best of them, and the field's two parts and sum at the particles."""
    candidate_rng, particle_rng = jax.random.split(jax.random.PRNGKey(options.seed))
    candidates = np.asarray(problems.sample_old_policy(candidate_rng, options.num_candidates))
    order = np.argsort(-np.asarray(problems.values(candidates)), stable=True)
    best, others = candidates[order[: options.top_k]], candidates[order[options.top_k :]]
    particles = np.asarray(problems.sample_old_policy(particle_rng, options.num_particles))
    attraction, repulsion = map(np.asarray, options.parts(particles, best))

    with plt.rc_context({'font.size': 13}):
        figure, axes = plt.subplots(1, 4, figsize=(13.6, 4.1), layout='constrained')
        for ax in axes:
            _draw_values(ax)
        axes[0].scatter(*others.T, s=45, color='white', edgecolors='0.25', label='proposals')
        axes[0].scatter(
            *best.T, s=150, marker='*', color=ORANGE, edgecolors='0.2', label='the best'
        )
        axes[0].set_title(f'the {options.top_k} best of {options.num_candidates} by Q')
        axes[0].legend(loc='lower left', fontsize=11, handletextpad=0.2)
        for ax, arrows, title, colour in (
            (axes[1], attraction, 'attraction by the best', RED),
            (axes[2], repulsion, 'repulsion by each other', GREEN),
            (axes[3], attraction + repulsion, 'their sum moves particles', BLUE),
        ):
            ax.scatter(*best.T, s=150, marker='*', color=ORANGE, edgecolors='0.2', alpha=0.8)
            ax.scatter(*particles.T, s=28, color='white', edgecolors=BLUE, zorder=3)
            _draw_arrows(ax, particles, arrows, colour)
            ax.set_title(title)
        axes[3].scatter(*(particles + attraction + repulsion).T, s=28, color=BLUE, zorder=4)
        axes[0].set_xlabel(f'proposals of {OLD_POLICY}; shaded: Q', fontsize=11)
        axes[1].set_xlabel(options.label, fontsize=11)
        axes[2].set_xlabel(f'{options.num_particles} particles of the policy', fontsize=11)
        axes[3].set_xlabel('hollow: before, filled: after', fontsize=11)
        _save(figure, options.output, dpi=110)


def _draw_values(ax: Axes) -> None:
    """Shades the plane by Q and styles the axes."""
    line = np.linspace(-EDGE, EDGE, 120)
    values = problems.values(np.stack(np.meshgrid(line, line), axis=-1))
    ax.contourf(line, line, values, levels=10, cmap='Greys', alpha=0.45)
    _frame(ax)


def _frame(ax: Axes, edge: float = EDGE) -> None:
    ax.set(xlim=(-edge, edge), ylim=(-edge, edge), xticks=[], yticks=[], aspect='equal')


def _draw_arrows(ax: Axes, points: np.ndarray, arrows: np.ndarray, colour: str, **style) -> None:
    """Draws arrows `[G, 2]` of their own length at points `[G, 2]`."""
    ax.quiver(
        *np.asarray(points).T, *np.asarray(arrows).T, color=colour, angles='xy', scale_units='xy',
        scale=1, headwidth=3.5, headlength=4.5, headaxislength=4,
        minshaft=1.2, minlength=0.5, **({'width': 0.01, 'zorder': 5} | style),
    )  # fmt: skip


def _save(figure: Figure, path: str, dpi: int) -> None:
    try:
        figure.savefig(path, dpi=dpi)
    except OSError as error:
        raise UserError(f'--output={path}: cannot be written ({error.strerror})') from error
    finally:
        plt.close(figure)


# ---- training, as an animation ------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Snapshot:
    """A generator during training: its samples `[n, 2]`, and the field at the first of them."""

    update: int
    samples: np.ndarray
    decomposition: problems.Decomposition


def training_snapshots(
    options: Options, num_snapshots: int = 60, num_samples: int = 10_000, num_arrows: int = 40
) -> Iterator[Snapshot]:
    """Trains a generator towards the tilted policy and measures its field during training.

    Yields:
        Snapshots, the first one from before all updates.
    """
    interval = max(1, options.num_updates // num_snapshots)
    rng = np.random.default_rng(options.seed)
    targets = problems.sample_tilted(rng, problems.POOL, options.beta)
    samples = problems.train(
        problems.Start('broad', (0.0, 0.1), 0.35),
        options.field,
        targets,
        options.seed,
        num_snapshots,
        interval,
        num_samples=num_samples,
    )
    for i, drawn in enumerate(samples):
        decomposition = problems.decompose(
            drawn[:num_arrows], targets, drawn, options.width, options.beta
        )
        yield Snapshot(i * interval, drawn, decomposition)


def draw_training(options: Options) -> None:
    """Animates the samples of a generator, their target density, and the field."""
    with plt.rc_context({'font.size': 12}):
        frames = [_training_frame(snapshot, options) for snapshot in training_snapshots(options)]
    write_video(options.output, [*frames, *frames[-1:] * FPS], FPS)


def _training_frame(snapshot: Snapshot, options: Options) -> np.ndarray:
    figure, axes = plt.subplots(1, 3, figsize=(11.4, 4.5), layout='constrained')
    line = np.linspace(-EDGE, EDGE, 120)
    points = np.stack(np.meshgrid(line, line), axis=-1)
    density = np.exp(problems.log_tilted(points, options.beta))
    _draw_values(axes[0])
    axes[0].scatter(*snapshot.samples[:2000].T, s=4, color=BLUE, alpha=0.5, linewidths=0)
    axes[0].set_title(f'samples after {snapshot.update:,} updates')
    axes[0].set_xlabel('shaded: Q')
    axes[1].contourf(line, line, density, levels=12, cmap='cividis')
    axes[1].set_title('the tilted policy, exactly')
    axes[1].set_xlabel(f'{OLD_POLICY} exp(Q / β), β = {options.beta:g}')
    parts = snapshot.decomposition
    at = snapshot.samples[: len(parts.field)]
    axes[2].scatter(*at.T, s=10, color='0.6')
    zoom = ARROW / parts.size
    _draw_arrows(axes[2], at, zoom * parts.field, BLUE, label='V', width=0.014)
    _draw_arrows(
        axes[2], at, zoom * parts.sum, ORANGE, label='its decomposition', width=0.006, zorder=6
    )
    axes[2].set_title(f'the field V, magnified {zoom:.0f} times')
    axes[2].set_xlabel(options.label)
    axes[2].legend(loc='lower right', fontsize=10)
    for ax in axes:
        _frame(ax)
    figure.supxlabel(
        f'V against {DECOMPOSITION}: '
        f'cosine {parts.cosine:.2f}, difference {100 * parts.error:.0f}% of V; '
        f'RMS of V {parts.size:.3f}',
        fontsize=11,
    )
    figure.canvas.draw()
    image = np.asarray(figure.canvas.buffer_rgba())[..., :3].copy()
    plt.close(figure)
    return image


# ---- three starts -------------------------------------------------------------------------------


def draw_starts(options: Options) -> None:
    """Draws where generators start and end, on two targets."""
    rng = np.random.default_rng(options.seed)
    with plt.rc_context({'font.size': 12}):
        figure, axes = plt.subplots(
            len(problems.TARGETS),
            len(problems.STARTS),
            figsize=(9.6, 6.9),
            layout='constrained',
            squeeze=False,
        )
        for row, (name, sample) in zip(axes, problems.TARGETS.items(), strict=True):
            targets = sample(rng, problems.POOL)
            for ax, start in zip(row, problems.STARTS, strict=True):
                first, last = problems.train(
                    start, options.field, targets, options.seed, 2, options.num_updates
                )
                ax.scatter(*targets[:4000].T, s=3, color='0.8', linewidths=0, label='target')
                ax.scatter(*first[:500].T, s=5, color=ORANGE, linewidths=0, label='start')
                ax.scatter(*last.T, s=3, color=BLUE, alpha=0.6, linewidths=0, label='end')
                ax.set_title(f'{name}, {start.name}', fontsize=12)
                _frame(ax, EDGE if max(start.centre) < EDGE else 2.5)
        figure.legend(
            *axes[0, 0].get_legend_handles_labels(), loc='outside lower center', ncols=3,
            markerscale=4, fontsize=11,
        )  # fmt: skip
        figure.suptitle(f'{options.label}; {options.num_updates:,} updates', fontsize=12)
        _save(figure, options.output, dpi=100)


# ---- the program --------------------------------------------------------------------------------

HELP = {
    'output': 'File to write; field, starts: .png, .pdf or .svg; training: .mp4 or .gif.',
    'figure': f'What to draw: {", ".join(FIGURES)}.',
    'kernel': "gaussian or laplace: of the mean-shift field; normalized: the release's field.",
    'bandwidth': 'Bandwidth of the mean-shift field; default: '
    + ', '.join(f'{width:g} ({name})' for name, width in BANDWIDTHS.items()),
    'temperatures': 'T of the normalised field, separated by commas.',
    'beta': 'β, the temperature of the tilted policy (training).',
    'num_candidates': 'N, proposals of π_old (field).',
    'top_k': 'K, the best of them (field).',
    'num_particles': 'G, samples of the policy (field).',
    'updates': 'Updates of the generator; default: '
    + ', '.join(f'{UPDATES[k]} ({k})' for k in ('training', 'starts')),
    'seed': 'Seed of all draws.',
}


def main(argv) -> None:
    logging.set_verbosity(logging.WARNING)  # jax logs which backends it lacks
    try:
        if len(argv) > 1:
            raise UserError(f'{argv[1]!r}: not a flag; flags start with --')
        given = {name: flags.FLAGS[name].value for name in HELP}
        try:
            given['temperatures'] = tuple(map(float, given['temperatures']))
        except ValueError:
            text = ','.join(given['temperatures'])
            raise UserError(f'--temperatures={text}: must be numbers, such as 0.1,0.5') from None
        draw(Options(**given))
    except UserError as error:
        sys.exit(str(error))
    print(f'Wrote {pathlib.Path(flags.FLAGS.output)}')


if __name__ == '__main__':
    for field in dataclasses.fields(Options):
        kind = {'temperatures': 'list', 'bandwidth': 'float', 'updates': 'integer'}.get(field.name)
        kind = kind or {int: 'integer', float: 'float', str: 'string'}[field.type]
        default = ['0.1'] if kind == 'list' else field.default
        getattr(flags, f'DEFINE_{kind}')(field.name, default, HELP[field.name])
    app.run(main)
