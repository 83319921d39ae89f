"""Measures updates against their arithmetic floor, and what fusing them gains.

    python -m benchmarks.update

Paper size: 4 × 512, B = 256, h = 5, 37-dimensional observations, 5-dimensional actions. The floor
of an update is its necessary floating-point work over the rate of a 4096×512 · 512×512 float32
product, which is measured before and after every block of updates.

Small size: 2 × 128, B = 64. Fused updates that sample on the device, against one dispatch per
update with the batch sampled by NumPy on the host and sent over.
"""

import functools
import itertools
import json
import platform
import time

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

from agents import make_agent
from agents.dfp import get_config
from utils.replay import ReplayBuffer
from utils.training import train, zero_totals

OBSERVATION_DIM, ACTION_DIM, HORIZON, DISCOUNT = 37, 5, 5, 0.99
EPISODES, EPISODE_ROWS = 200, 1001


def mlp_flops(rows: int, inputs: int, hidden: tuple[int, ...], outputs: int) -> int:
    """Multiplications and additions of the matrix products of one forward pass."""
    sizes = (inputs, *hidden, outputs)
    return sum(2 * rows * a * b for a, b in itertools.pairwise(sizes))


def update_flops(config, online: bool) -> int:
    """Necessary work of one DFP update; a backward pass counts as two forward passes."""
    batch, chunk = config.batch_size, HORIZON * ACTION_DIM
    inputs = OBSERVATION_DIM + chunk

    def actor(rows):
        return mlp_flops(rows, inputs, config.actor_hidden_dims, chunk)

    def critics(rows):
        return config.num_qs * mlp_flops(rows, inputs, config.critic_hidden_dims, 1)

    candidates = batch * config.num_samples
    flops = actor(candidates) + critics(candidates)  # best of N at the next state
    flops += critics(batch) + 3 * critics(batch)  # target critic, TD loss
    flops += 3 * actor(batch * config.num_particles)  # drift loss
    if online:
        candidates = batch * config.num_candidates
        flops += actor(candidates) + critics(candidates)  # top K of N proposals
    return flops


def make_rows(seed: int = 0) -> dict[str, np.ndarray]:
    """Random data of the size of a small data set."""
    rng = np.random.default_rng(seed)
    num = EPISODES * EPISODE_ROWS
    return {
        'observations': rng.standard_normal((num, OBSERVATION_DIM), np.float32),
        'actions': rng.uniform(-1, 1, (num, ACTION_DIM)).astype(np.float32),
        'rewards': rng.integers(-2, 1, num).astype(np.float32),
        'masks': np.ones(num, np.float32),
        'terminals': np.arange(num) % EPISODE_ROWS == EPISODE_ROWS - 1,
    }


def new_agent(small: bool):
    config = get_config()
    if small:
        config.update(batch_size=64, actor_hidden_dims=(128, 128), critic_hidden_dims=(128, 128))
    return make_agent(
        {
            'agent': config.to_dict(),
            'observation_dim': OBSERVATION_DIM,
            'action_dim': ACTION_DIM,
            'horizon_length': HORIZON,
            'discount': DISCOUNT,
        },
        seed=0,
    )


def seconds(function) -> float:
    """Returns how long `function` and the device work it returns take."""
    start = time.perf_counter()
    jax.block_until_ready(function())
    return time.perf_counter() - start


def product_rate(repeats: int = 20) -> float:
    """Returns the median FLOP/s of a 4096×512 · 512×512 product."""
    x, w = jnp.ones((4096, 512)), jnp.ones((512, 512))
    product = jax.jit(jnp.matmul)
    jax.block_until_ready(product(x, w))
    return (
        2 * 4096 * 512 * 512 / np.median([seconds(lambda: product(x, w)) for _ in range(repeats)])
    )


class Fused:
    """Blocks of updates in one dispatch, sampled on the device."""

    def __init__(self, agent, buffer):
        self.agent, self.buffer = jax.tree.map(jnp.copy, agent), buffer  # `train` uses it up
        self.totals = zero_totals(agent, buffer)

    def run(self, num_updates: int):
        self.agent, self.totals = train(self.agent, self.buffer, num_updates, self.totals)
        return self.totals


class OneByOne:
    """One dispatch per update, on batches that NumPy gathers from arrays on the host."""

    def __init__(self, agent, rows):
        self.agent, self.rows = jax.tree.map(jnp.copy, agent), rows
        self.rng = np.random.default_rng(0)
        self.starts = np.flatnonzero(~rows['terminals'])
        self.discounts = DISCOUNT ** np.arange(HORIZON, dtype=np.float32)

    def sample(self):
        rows = self.rows
        start = self.rng.choice(self.starts, self.agent.config.batch_size)
        last = len(rows['terminals']) - 1
        steps = np.minimum(start[:, None] + np.arange(HORIZON), last)
        valid = np.cumsum(rows['terminals'][steps], axis=1) == 0
        return {
            'observations': rows['observations'][start],
            'actions': rows['actions'][steps],
            'rewards': (rows['rewards'][steps] * valid * self.discounts).sum(axis=1),
            'masks': np.where(valid, rows['masks'][steps], 1.0).prod(axis=1, dtype=np.float32),
            'next_observations': rows['observations'][np.minimum(start + HORIZON, last)],
            'valid': valid.astype(np.float32),
        }

    def run(self, num_updates: int):
        for _ in range(num_updates):
            self.agent, info = self.agent.update(self.sample())
        return info


def measure(runners: dict, num_updates: int, repeats: int) -> dict[str, list[float]]:
    """Times each runner in turn, so that a noisy minute falls on all of them alike."""
    for runner in runners.values():
        jax.block_until_ready(runner.run(1))
    times = {name: [] for name in runners} | {'product': []}
    for _ in range(repeats):
        for name, runner in runners.items():
            rate = product_rate()
            took = seconds(functools.partial(runner.run, num_updates)) / num_updates
            times[name].append(took)
            times['product'].append((rate + product_rate()) / 2)
    return times


def main(_):
    rows = make_rows()
    buffer = ReplayBuffer.create(rows, EPISODES * EPISODE_ROWS)
    device = jax.devices()[0]
    print(f'{device.device_kind} ({device.platform}), {platform.machine()}, jax {jax.__version__}')
    results = {'device': device.device_kind, 'jax': jax.__version__}

    agent = new_agent(small=False)
    phases = {
        'offline': Fused(agent, buffer),
        'online': Fused(agent.begin_online(), buffer),
    }
    config = agent.config
    times = measure(phases, flags.FLAGS.num_updates, flags.FLAGS.repeats)
    rate = float(np.median(times['product']))
    print(f'product: {rate / 1e9:.0f} GFLOP/s')
    for phase in phases:
        flops = update_flops(config, phase == 'online')
        took = float(np.median(times[phase]))
        ratio = took * rate / flops
        results[f'paper_{phase}'] = {'ms': 1e3 * took, 'gflop': flops / 1e9, 'to_floor': ratio}
        print(
            f'paper size, {phase:7}: {1e3 * took:7.2f} ms per update, {flops / 1e9:.1f} GFLOP, '
            f'{ratio:.2f} times the floor'
        )

    agent = new_agent(small=True)
    for phase in ('offline', 'online'):
        start = agent.begin_online() if phase == 'online' else agent
        runners = {
            'fused': Fused(start, buffer),
            'one by one': OneByOne(start, rows),
        }
        times = measure(runners, 40 * flags.FLAGS.num_updates, flags.FLAGS.repeats)
        fused, single = (float(np.median(times[name])) for name in runners)
        results[f'small_{phase}'] = {'fused_ms': 1e3 * fused, 'one_by_one_ms': 1e3 * single}
        print(
            f'small size, {phase:7}: {1e3 * fused:7.2f} ms per update fused, {1e3 * single:.2f} ms '
            f'one by one, {single / fused:.2f} times as long'
        )
    if flags.FLAGS.json:
        with open(flags.FLAGS.json, 'w') as file:
            json.dump(results, file, indent=2)


if __name__ == '__main__':
    flags.DEFINE_integer('num_updates', 5, 'Updates per measurement (40 times as many if small).')
    flags.DEFINE_integer('repeats', 9, 'Measurements, of which the median counts.')
    flags.DEFINE_string('json', None, 'File for the results.')
    app.run(main)
