"""Episodes of an environment, played in chunks of actions.

One call of `ActionChunks.play` executes a chunk of h actions, so a policy is called once per chunk.
"""

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import gymnasium
import numpy as np

Observation = np.ndarray | dict[str, np.ndarray]


def map_observation(function: Callable, observation: Any, *others: Any) -> Any:
    """Applies `function` to each array of an observation (and of others with its structure)."""
    if isinstance(observation, dict):
        return {
            name: function(array, *(other[name] for other in others))
            for name, array in observation.items()
        }
    return function(observation, *others)


def is_same(first: Any, second: Any) -> bool:
    """Whether two trees of arrays and numbers are equal, bit by bit."""
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(is_same(first[x], second[x]) for x in first)
    if isinstance(first, (list, tuple)):
        return all(map(is_same, first, second))
    return np.array_equal(first, second)


def episode_seed(seed: int, episode: int, mode: str = 'play') -> int:
    """Returns the seed for `reset` of episode number `episode` of the run with seed `seed`.

    It is below 2³², as every simulator's generator requires. Source: `np.random.SeedSequence`.

    Args:
        seed: of the run, below 2³².
        episode: its number.
        mode: 'play' (the online phase) or 'evaluate', which have different episodes.
    """
    numbers = {'play': (seed, episode), 'evaluate': (seed, episode, 1)}[mode]
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


class ActionChunks:
    """Plays episodes of an environment, a chunk of up to h actions at a time.

    Args:
        env: of `envs.make_env`.
        horizon_length: h.
        frame_stack: frames in the policy's images, stacked along the channels, the newest last.
            The episode's first frame is repeated at its start.
    """

    def __init__(self, env: gymnasium.Env, horizon_length: int, frame_stack: int = 1):
        self._env, self._horizon = env, horizon_length
        self._frame_stack = frame_stack
        self._frames: deque[Any] = deque(maxlen=frame_stack)

    def begin(self, seed: int, chunks: Sequence[np.ndarray] = ()) -> Observation | None:
        """Begins the episode of a seed and replays actions `[n, d_a]` in it.

        Returns:
            The policy's observation then, or None if this ends the episode.
        """
        first, _ = self._env.reset(seed=seed)
        self._frames.extend([first] * self._frame_stack)
        for action in (action for chunk in chunks for action in chunk):
            observation, _, terminated, truncated, _ = self._env.step(action)
            self._frames.append(observation)
            if terminated or truncated:
                return None
        return self._observe()

    def repeats(self) -> bool:
        """Whether the first step of an episode is the same twice; ends the open episode."""
        action = np.zeros((1, *self._env.action_space.shape), np.float32)  # pyright: ignore
        return is_same(*[(self.begin(0), self.play(action)) for _ in range(2)])

    def play(self, chunk: np.ndarray) -> tuple[dict[str, Any], Observation, bool | None]:
        """Executes actions `[n, d_a]`, 1 ≤ n ≤ h, until their end or the end of the episode.

        Returns:
            The transitions for `Replay.add`: `observations [h, ...]`, `actions [h, d_a]` (clipped
            to ±1), `rewards [h]`, `masks [h]` (0 where the task terminated; a time limit is not a
            termination), `length`, `next_observation [...]` and `done`. Only the first `length` of
            the h are real, the rest are zeros. Observations have the environment's structure.
            Then the policy's observation at the end, and whether the episode ended with success;
            None if it ended and the environment does not tell.
        """
        chunk = np.clip(chunk, -1.0, 1.0, dtype=np.float32)
        rewards, masks = np.zeros(self._horizon, np.float32), np.ones(self._horizon, np.float32)
        terminated = truncated = False
        seen, info = [], {}
        while len(seen) < len(chunk) and not (terminated or truncated):
            step = len(seen)
            seen.append(self._frames[-1])
            observation, reward, terminated, truncated, info = self._env.step(chunk[step])
            self._frames.append(observation)
            rewards[step], masks[step] = reward, not terminated
        length, done = len(seen), terminated or truncated
        transitions = {
            'observations': map_observation(self._padded, *seen),
            'actions': self._padded(*chunk[:length]),
            'rewards': rewards,
            'masks': masks,
            'length': length,
            'next_observation': self._frames[-1],
            'done': done,
        }
        return transitions, self._observe(), info['success'] if done else False

    def _observe(self) -> Observation:
        def stack(*frames: np.ndarray) -> np.ndarray:
            is_image = frames[0].dtype == np.uint8 and frames[0].ndim == 3
            return np.concatenate(frames, axis=-1) if is_image else frames[-1]

        return map_observation(stack, *self._frames)

    def _padded(self, *arrays: np.ndarray) -> np.ndarray:
        """Stacks arrays, padded with zeros to h."""
        padded = np.zeros((self._horizon, *arrays[0].shape), arrays[0].dtype)
        padded[: len(arrays)] = arrays
        return padded
