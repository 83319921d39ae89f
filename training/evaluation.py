"""Evaluation: many episodes of all seeds at once, the same episodes every time."""

import dataclasses
import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from envs.episodes import episode_seed
from envs.simulators import Simulators, Start
from envs.workers import SimulatorError
from training.updates import on_each_device
from utils.errors import NotFinite
from utils.keys import key_for
from utils.seeds import over_seeds


@jax.jit
def _act(policies, observations, rngs, episodes, num_chunks):
    """Returns chunks `[S, n, h, d_a]`; their noise depends only on seed, episode and chunk."""

    def act_one(policy, observations, rng, episodes, num_chunks):
        def act(observation, episode, chunk):
            key = jax.random.fold_in(jax.random.fold_in(rng, episode), chunk)
            return policy.sample_actions(observation, key)

        return jax.vmap(act)(observations, episodes, num_chunks)

    return over_seeds(act_one, (0,) * 5)(policies, observations, rngs, episodes, num_chunks)


@dataclasses.dataclass
class _Episode:
    """An episode in progress."""

    number: int
    observation: Any
    chunks: int = 0
    reward: float = 0.0
    length: int = 0
    success: bool | None = False  # None: it ended, and the environment does not tell


def evaluate(
    policies: Sequence[Any],
    simulators: Simulators,
    num_episodes: int,
    seeds: Sequence[int],
    between_steps: Callable[[], None] = lambda: None,
) -> tuple[list[dict[str, float | None]], SimulatorError | None]:
    """Plays `num_episodes` episodes with each policy and averages their outcomes.

    Start states depend only on the seed and the episode's number, noise also on the chunk's number.
    So with the same number of simulators a policy always gets the same score, even if some fail and
    are rebuilt. One call of a policy gives a chunk for each of its simulators.

    Args:
        policies: stacks `[S_d, …]`, one per device, of anything with
            `sample_actions(observation, rng) -> [h, d_a]`; S in total.
        simulators: S · n; each policy gets n.
        num_episodes: per policy.
        seeds: one per policy; they determine start states and noise.
        between_steps: called before every chunk; its exceptions end the evaluation.

    Raises:
        NotFinite: an observation, a policy's action or a reward is not finite.
        SimulatorError: a simulator cannot be rebuilt.

    Returns:
        For each policy `success` (fraction of episodes successful by the suite's `score`; None if
        the environment does not tell), `return` and `length` (environment steps), averaged over
        episodes, and `simulator_failures`, how often its simulators failed. An episode that could
        not continue counts with its steps so far, without success; if a simulator failed in it
        twice, the error is returned with the scores.
    """
    num, per_seed = simulators.num_envs, simulators.num_envs // len(seeds)
    queues = [
        deque(range(first, num_episodes, per_seed)) for _ in seeds for first in range(per_seed)
    ]
    rngs = np.stack([key_for(seed, 'evaluation') for seed in seeds])
    playing: dict[int, _Episode] = {}  # by the simulator's number
    outcomes: list[list[_Episode]] = [[] for _ in seeds]
    simulators.take_failures()

    def by_seed(values: Sequence[Any]) -> np.ndarray:
        return np.stack(values).reshape(len(seeds), per_seed, *np.shape(values[0]))

    def check(what: str, i: int, values: Any) -> None:
        if not all(np.isfinite(x).all() for x in jax.tree.leaves(values)):
            raise NotFinite(
                f'evaluation of seed {seeds[i // per_seed]}, episode {playing[i].number}: {what} '
                'not finite'
            )

    def end(i: int) -> None:
        outcomes[i // per_seed].append(playing.pop(i))

    while playing or any(queues):
        between_steps()
        new = {i: queue.popleft() for i, queue in enumerate(queues) if queue and i not in playing}
        starts = {i: Start(episode_seed(seeds[i // per_seed], number, 'evaluate'))
                  for i, number in new.items()}  # fmt: skip
        for i, observation in simulators.begin(starts).items():
            if i in new:
                playing[i] = _Episode(new[i], observation)
            if observation is None:
                end(i)
        if not playing:
            continue
        for i, episode in playing.items():
            check('the environment returned an observation that is', i, episode.observation)
        idle = next(iter(playing.values()))  # its inputs stand in for idle simulators
        episodes = [playing.get(i, idle) for i in range(num)]
        inputs = [
            jax.tree.map(lambda *x: by_seed(x), *(episode.observation for episode in episodes)),
            rngs,
            by_seed([np.int32(episode.number) for episode in episodes]),
            by_seed([np.int32(episode.chunks) for episode in episodes]),
        ]
        chunks = on_each_device(_act, policies, *inputs)
        chunks = chunks.reshape(num, *chunks.shape[2:])
        for i in playing:
            check('the policy chose an action that is', i, chunks[i])
        for i, answer in simulators.play({i: chunks[i] for i in playing}).items():
            if answer is None:
                end(i)
                continue
            (transitions, observation, success), episode = answer, playing[i]
            check('the environment returned a reward that is', i, transitions['rewards'])
            episode.observation = observation
            episode.chunks += 1
            episode.reward += float(transitions['rewards'].sum())
            episode.length += transitions['length']
            episode.success = success
            if transitions['done']:
                end(i)
    failures, error = simulators.take_failures()
    scores = [
        {
            'success': _success(episodes),
            'return': _mean([episode.reward for episode in episodes]),
            'length': _mean([episode.length for episode in episodes]),
            'simulator_failures': int(failures[i * per_seed : (i + 1) * per_seed].sum()),
        }
        for i, episodes in enumerate(outcomes)
    ]
    return scores, error


def headline(scores: Sequence[Mapping[str, float | None]]) -> tuple[str, str]:
    """Returns name and mean of what policies are judged by: success, or else the return."""
    success = [score['success'] for score in scores]
    if None not in success:
        return 'success', f'{100 * np.mean(success):.0f}%'  # pyright: ignore
    return 'return', f'{np.mean([score["return"] for score in scores]):.4g}'  # pyright: ignore


def _success(episodes: Sequence[_Episode]) -> float | None:
    found = [episode.success for episode in episodes]
    return None if None in found and True not in found else _mean(list(map(bool, found)))


def _mean(values: Sequence[float]) -> float:
    """Returns the mean, independent of the order in which the episodes ended."""
    return math.fsum(values) / len(values)
