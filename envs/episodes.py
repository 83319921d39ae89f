"""Episodes of an environment, played in chunks of actions.

One call of `ActionChunks.play` is a chunk of h actions. So a policy is asked once per chunk, and
there is no way to ask it in between.
"""

from collections.abc import Callable, Sequence
from typing import Any

import gymnasium
import numpy as np

Observation = np.ndarray | dict[str, np.ndarray]


def map_observation(function: Callable, observation: Any, *others: Any) -> Any:
    """Returns `function` of each array of an observation (and of others of the same structure)."""
    if isinstance(observation, dict):
        return {
            name: function(array, *(other[name] for other in others))
            for name, array in observation.items()
        }
    return function(observation, *others)


def episode_seed(seed: int, episode: int, mode: str = 'play') -> int:
    """The seed that resets episode number `episode` of the run with seed `seed`.

    It is below 2³², which every simulator's generator takes. Source: `np.random.SeedSequence`.

    Args:
        seed: of the run, below 2³².
        episode: its number.
        mode: 'play' (the online phase) or 'evaluate'. The two have episodes of their own.
    """
    numbers = {'play': (seed, episode), 'evaluate': (seed, episode, 1)}[mode]
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


class ActionChunks:
    """Plays episodes of an environment, a chunk of up to h actions at a time.

    Args:
        env: of `envs.make_env`.
        horizon_length: h.
    """

    def __init__(self, env: gymnasium.Env, horizon_length: int):
        self._env, self._horizon = env, horizon_length
        self._observation: Any = None

    def begin(self, seed: int, chunks: Sequence[np.ndarray] = ()) -> Observation | None:
        """Begins the episode of a seed, and executes actions `[n, d_a]` that were played in it.

        Returns:
            The observation that this leads to, or None if it ends the episode.
        """
        self._observation, _ = self._env.reset(seed=seed)
        for action in (action for chunk in chunks for action in chunk):
            self._observation, _, terminated, truncated, _ = self._env.step(action)
            if terminated or truncated:
                return None
        return self._observation

    def play(self, chunk: np.ndarray) -> tuple[dict[str, Any], bool]:
        """Executes actions `[n, d_a]`, 1 ≤ n ≤ h, to their end or to the end of the episode.

        Returns:
            What happened, in the form that `Replay.add` takes: `observations [h, ...]`, `actions
            [h, d_a]` (clipped to ±1), `rewards [h]`, `masks [h]` (0 where the task terminated; a
            time limit is not a termination), `length`, `next_observation [...]` and `done`. Only
            the first `length` of the h are real, the rest are zeros. Observations have the
            structure of the environment's. And whether the episode ended here with success.
        """
        chunk = np.clip(chunk, -1.0, 1.0, dtype=np.float32)
        rewards, masks = np.zeros(self._horizon, np.float32), np.ones(self._horizon, np.float32)
        terminated = truncated = False
        seen, info = [], {}
        while len(seen) < len(chunk) and not (terminated or truncated):
            step = len(seen)
            seen.append(self._observation)
            self._observation, reward, terminated, truncated, info = self._env.step(chunk[step])
            rewards[step], masks[step] = reward, not terminated
        length, done = len(seen), terminated or truncated
        transitions = {
            'observations': map_observation(self._padded, *seen),
            'actions': self._padded(*chunk[:length]),
            'rewards': rewards,
            'masks': masks,
            'length': length,
            'next_observation': self._observation,
            'done': done,
        }
        return transitions, bool(done and info['success'])

    def _padded(self, *arrays: np.ndarray) -> np.ndarray:
        """Stacks arrays, and zeros up to h of them."""
        padded = np.zeros((self._horizon, *arrays[0].shape), arrays[0].dtype)
        padded[: len(arrays)] = arrays
        return padded
