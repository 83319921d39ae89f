"""Problems in the plane on which to see and measure a drifting field; `figures.field` draws them.

In the first, an old policy π_old has a known density over actions [2], whose values Q are known
too. The target is the tilted policy π*(a) ∝ π_old(a) exp(Q(a) / β). In the others the target is a
checkerboard or two spirals, and the question is where the generator starts.

Source of the decomposition: Drifting Field Policy (arXiv 2605.07727), with the Gaussian kernel of
width σ: V ≈ (σ²/β) ∇Q + σ² (∇log π_old − ∇log π_θ).
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike

from agents.drifting import KERNELS as MEAN_SHIFT_KERNELS
from agents.drifting import drifting_field, gaussian, mean_shift, mean_shift_field
from agents.drifting import normalized_field as normalized
from utils.networks import MLP

Field = Callable[[jax.Array, jax.Array], jax.Array]  # (particles [G, 2], positives [P, 2]) -> V
# The field as two parts [G, 2], attraction and repulsion, whose sum is V.
Parts = Callable[[jax.Array, jax.Array], tuple[jax.Array, jax.Array]]
KERNELS = (*MEAN_SHIFT_KERNELS, 'normalized')
POOL = 20_000  # samples of a target that training draws from

# The old policy has three modes of equal width; the values have two hills.
MODES = np.array([[-0.5, -0.4], [0.45, -0.45], [0.0, 0.5]])
WEIGHTS = np.array([0.4, 0.3, 0.3])
WIDTH = 0.25
HILLS = np.array([[0.55, 0.35], [-0.6, 0.35]])
HEIGHTS = np.array([1.0, 0.6])
HILL_WIDTH = 0.5


# ---- an old policy, values, and the tilted policy -----------------------------------------------


@jax.jit
def values(actions: jax.Array) -> jax.Array:
    """Returns Q `[...]` of `actions [..., 2]`."""
    squared = jnp.sum((actions[..., None, :] - HILLS) ** 2, axis=-1)
    return jnp.sum(HEIGHTS * jnp.exp(-squared / (2 * HILL_WIDTH**2)), axis=-1)


@jax.jit
def log_old_policy(actions: jax.Array, blur: float = 0.0) -> jax.Array:
    """Returns log π_old `[...]` of `actions [..., 2]`, blurred by a Gaussian of width `blur`.

    A kernel density estimate of that bandwidth converges to the blurred density.
    """
    variance = WIDTH**2 + blur**2
    squared = jnp.sum((actions[..., None, :] - MODES) ** 2, axis=-1)
    exponents = jnp.log(WEIGHTS) - squared / (2 * variance)
    return jax.nn.logsumexp(exponents, axis=-1) - jnp.log(2 * jnp.pi * variance)


@partial(jax.jit, static_argnames='num')
def sample_old_policy(rng: jax.Array, num: int) -> jax.Array:
    """Draws actions `[num, 2]` of π_old."""
    mode_rng, noise_rng = jax.random.split(rng)
    modes = jax.random.choice(mode_rng, jnp.asarray(MODES), (num,), p=jnp.asarray(WEIGHTS))
    return modes + WIDTH * jax.random.normal(noise_rng, (num, 2))


@jax.jit
def log_tilted(actions: jax.Array, beta: float) -> jax.Array:
    """Returns log π_old(a) + Q(a) / β `[...]`: the tilted policy's log density, unnormalised."""
    return log_old_policy(actions) + values(actions) / beta


def sample_tilted(rng: np.random.Generator, num: int, beta: float) -> np.ndarray:
    """Draws actions `[num, 2]` of the tilted policy, at the resolution of a fine grid."""
    line, cell = np.linspace(-2, 2, 512, retstep=True)
    points = np.stack(np.meshgrid(line, line), axis=-1).reshape(-1, 2)
    logs = np.asarray(log_tilted(points, beta), np.float64)
    chances = np.exp(logs - logs.max())
    drawn = points[rng.choice(len(points), num, p=chances / chances.sum())]
    return (drawn + cell * rng.uniform(-0.5, 0.5, drawn.shape)).astype(np.float32)


class Decomposition(NamedTuple):
    """The field at some points `[G, 2]`, its theoretical terms, and how well they fit.

    Attributes:
        field: V.
        of_values: (σ²/β) ∇Q.
        of_old_policy: σ² ∇log π_old, for the density blurred by the kernel.
        of_policy: −σ² ∇log π_θ, for the kernel density estimate.
    """

    field: np.ndarray
    of_values: np.ndarray
    of_old_policy: np.ndarray
    of_policy: np.ndarray

    @property
    def sum(self) -> np.ndarray:
        """The three terms together `[G, 2]`."""
        return self.of_values + self.of_old_policy + self.of_policy

    @property
    def size(self) -> float:
        """The root mean square length of V."""
        return float(np.sqrt(np.mean(np.sum(self.field**2, axis=-1))))

    @property
    def error(self) -> float:
        """The length of V − sum divided by that of V, both root mean squares."""
        difference = np.sum((self.field - self.sum) ** 2, axis=-1)
        return float(np.sqrt(np.mean(difference))) / self.size

    @property
    def cosine(self) -> float:
        """The cosine of the angle between V and the sum, both flattened over points."""
        norms = np.linalg.norm(self.field) * np.linalg.norm(self.sum)
        return float(np.vdot(self.field, self.sum) / norms)


def decompose(
    x: ArrayLike, positives: ArrayLike, negatives: ArrayLike, bandwidth: float, beta: float
) -> Decomposition:
    """Compares the field of the Gaussian kernel with its decomposition.

    Args:
        x: points `[G, 2]`.
        positives: samples of the tilted policy `[P, 2]`.
        negatives: samples of the policy `[M, 2]`.
        bandwidth: σ.
        beta: β.
    """
    return jax.device_get(_decompose(x, positives, negatives, bandwidth, beta))


@jax.jit
def _decompose(x, positives, negatives, bandwidth, beta) -> Decomposition:
    gradient = lambda f: jax.vmap(jax.grad(f))(x)  # noqa: E731
    return Decomposition(
        drifting_field(x, positives, negatives, partial(gaussian, bandwidth=bandwidth)),
        bandwidth**2 / beta * gradient(values),
        bandwidth**2 * gradient(lambda a: log_old_policy(a, bandwidth)),
        -(bandwidth**2) * gradient(lambda a: log_kde(a, negatives, bandwidth)),
    )


def log_kde(x: jax.Array, samples: jax.Array, bandwidth: float) -> jax.Array:
    """Returns the log of the Gaussian kernel density estimate at x `[2]`, up to a constant."""
    return jax.nn.logsumexp(jax.vmap(lambda y: gaussian(x, y, bandwidth))(samples))


# ---- fields in two parts ------------------------------------------------------------------------


def make_field(kernel: str, bandwidth: float, temperatures: Sequence[float]) -> Field:
    """Returns a field of `agents.drifting` for the particles of one state, which repel each other.

    Args:
        kernel: 'gaussian' or 'laplace' for the mean-shift field, 'normalized' for that of DFP's
            release.
        bandwidth: of the mean-shift field.
        temperatures: of the normalised one.
    """

    @jax.jit
    def field(x: jax.Array, positives: jax.Array) -> jax.Array:
        if kernel == 'normalized':
            moved, unit, _ = normalized(x[None], positives[None], temperatures=tuple(temperatures))
            return unit * moved[0]
        options = {'bandwidths': (bandwidth,), 'kernel': kernel}
        return mean_shift_field(x[None], positives[None], **options)[0][0]

    return field


def make_parts(kernel: str, bandwidth: float, temperatures: Sequence[float]) -> Parts:
    """Returns the field of `make_field` in two parts."""
    if kernel == 'normalized':
        return jax.jit(partial(normalized_parts, temperatures=tuple(temperatures)))
    field = make_field(kernel, bandwidth, temperatures)
    log_kernel = partial(MEAN_SHIFT_KERNELS[kernel], bandwidth=bandwidth)

    @jax.jit
    def parts(x: jax.Array, positives: jax.Array) -> tuple[jax.Array, jax.Array]:
        attraction = jax.vmap(lambda particle: mean_shift(particle, positives, log_kernel))(x)
        return attraction, field(x, positives) - attraction

    return parts


def normalized_parts(
    x: jax.Array, positives: jax.Array, temperatures: Sequence[float]
) -> tuple[jax.Array, jax.Array]:
    """Returns the two parts of `normalized_field` for the particles `x [G, 2]` of one state.

    With `positives_only` that function divides the attraction by its own root mean square. Here it
    is divided by that of the whole force, as within the field.
    """
    attraction = repulsion = jnp.zeros_like(x)
    for temperature in temperatures:
        whole, unit, of_whole = normalized(x[None], positives[None], temperatures=(temperature,))
        pull, _, of_pull = normalized(
            x[None], positives[None], temperatures=(temperature,), positives_only=True
        )
        sizes = [jnp.maximum(info['force'][0], 1e-8) for info in (of_pull, of_whole)]
        pull = pull * jnp.sqrt(sizes[0] / sizes[1])
        attraction = attraction + unit * pull[0]
        repulsion = repulsion + unit * (whole - pull)[0]
    return attraction, repulsion


# ---- training a generator -----------------------------------------------------------------------


class Start(NamedTuple):
    """An untrained generator's output for noise ε: centre + width · ε."""

    name: str
    centre: tuple[float, float]
    width: float


STARTS = (
    Start('in the middle', (0.0, 0.0), 0.3),
    Start('far away', (1.7, 1.7), 0.3),
    Start('collapsed', (0.0, 0.0), 0.01),
)


def train(
    start: Start,
    field: Field,
    targets: ArrayLike,
    seed: int,
    num_snapshots: int,
    interval: int,
    num_particles: int = 256,
    num_samples: int = 2_000,
) -> np.ndarray:
    """Trains a network to move its samples along a field; returns samples during training.

    An update draws particles and as many positives, and regresses the particles on x + V(x) with
    Adam. The generator is start(ε) + network(ε) − initial network(ε).

    Args:
        start: where the samples start.
        field: that moves the particles.
        targets: samples of the target `[M, 2]`; each update draws its positives from them.
        seed: of the network and of all draws.
        num_snapshots: F, how often samples are drawn, first before all updates.
        interval: updates between two snapshots.
        num_particles: G, also the number of positives.
        num_samples: n.

    Returns:
        The samples `[F, n, 2]`, always from the same noise.
    """
    targets = jnp.asarray(targets)
    network, optimizer = MLP((128, 128, 128), 2), optax.adam(1e-3)
    init_rng, noise_rng, train_rng = jax.random.split(jax.random.PRNGKey(seed), 3)
    initial = jax.jit(network.init)(init_rng, np.zeros((1, 2)))
    shown = jax.random.normal(noise_rng, (num_samples, 2))

    def generate(params, noise):
        moved = network.apply(params, noise) - network.apply(initial, noise)
        return jnp.asarray(start.centre) + start.width * noise + moved

    def update(carry, rng):
        params, opt_state = carry
        particle_rng, positive_rng = jax.random.split(rng)
        noise = jax.random.normal(particle_rng, (num_particles, 2))
        drawn = jax.random.randint(positive_rng, (num_particles,), 0, len(targets))

        def loss(params):
            x = generate(params, noise)
            return jnp.mean((x - jax.lax.stop_gradient(x + field(x, targets[drawn]))) ** 2)

        updates, opt_state = optimizer.update(jax.grad(loss)(params), opt_state)
        return (optax.apply_updates(params, updates), opt_state), None

    @jax.jit
    def run(params):
        def snapshot(carry, rngs):
            samples = generate(carry[0], shown)
            return jax.lax.scan(update, carry, rngs)[0], samples

        rngs = jax.random.split(train_rng, (num_snapshots, interval))
        return jax.lax.scan(snapshot, (params, optimizer.init(params)), rngs)[1]

    return np.asarray(run(initial))


def checkerboard(rng: np.random.Generator, num: int) -> np.ndarray:
    """Draws points `[num, 2]` of the dark squares of a 4 × 4 checkerboard on [−1, 1]²."""
    row = rng.integers(0, 4, num)
    column = 2 * rng.integers(0, 2, num) + row % 2
    corners = np.stack([column, row], axis=-1) / 2 - 1
    return (corners + 0.5 * rng.uniform(size=(num, 2))).astype(np.float32)


def spirals(rng: np.random.Generator, num: int) -> np.ndarray:
    """Draws points `[num, 2]` of two spirals in [−1, 1]², evenly along each."""
    turn = np.sqrt(rng.uniform(0.02, 1, num))  # arc length grows with the square of the angle
    angle = 3 * np.pi * turn + np.pi * rng.integers(0, 2, num)
    points = 0.95 * turn[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=-1)
    return (points + 0.015 * rng.standard_normal((num, 2))).astype(np.float32)


TARGETS = {'checkerboard': checkerboard, 'two spirals': spirals}
