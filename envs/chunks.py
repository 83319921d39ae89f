"""Chunks of actions, and episodes in a row: the two wrappers every environment runs in.

A policy that commits to h actions is asked once per chunk because nothing else is possible: one
`step` of the wrapped environment *is* a chunk.
"""

import gymnasium
import numpy as np


class ActionChunks(gymnasium.Wrapper):
    """Executes chunks `[h, d_a]` open-loop, to their end or to the end of the episode.

    `step` returns the last observation, the sum of rewards, how the episode ended if it did, and
    in `info['transitions']` what was experienced, in the form `ReplayBuffer.add` takes:
    `observations [h, d_s]`, `actions [h, d_a]` (clipped to ±1), `rewards [h]`, `masks [h]` (0
    where the task terminated; a time limit is not a termination), `length`, `next_observation`
    and `done`. Only the first `length` of the h are real, the rest are zeros.
    """

    def __init__(self, env: gymnasium.Env, horizon: int):
        super().__init__(env)
        self._horizon = horizon
        self._observation = None
        shape = (horizon, *env.action_space.shape)
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, shape, np.float32)

    def reset(self, **kwargs):
        self._observation, info = self.env.reset(**kwargs)
        return self._observation, info

    def step(self, chunk: np.ndarray):
        """Executes up to h actions; a chunk `[n, d_a]` with n < h is executed to its end."""
        chunk = np.clip(chunk, -1.0, 1.0)
        observations = np.zeros((self._horizon, *self._observation.shape), np.float32)
        rewards = np.zeros(self._horizon, np.float32)
        masks = np.ones(self._horizon, np.float32)
        terminated = truncated = False
        length, info = 0, {}
        while length < len(chunk) and not (terminated or truncated):
            observations[length] = self._observation
            self._observation, reward, terminated, truncated, info = self.env.step(chunk[length])
            rewards[length], masks[length] = reward, not terminated
            length += 1
        actions = np.zeros(self.action_space.shape, np.float32)
        actions[:length] = chunk[:length]
        transitions = {
            'observations': observations,
            'actions': actions,
            'rewards': rewards,
            'masks': masks,
            'length': length,
            'next_observation': self._observation,
            'done': terminated or truncated,
        }
        info = info | {'transitions': transitions}
        return self._observation, float(rewards.sum()), terminated, truncated, info


class EpisodeQueue(gymnasium.Wrapper):
    """Plays a fixed list of seeded episodes one after another, then idles.

    For evaluation in a vector environment: environment j of n plays episodes j, j + n, j + 2n, …
    each reset with its own seed, so that what is played depends neither on how long episodes take
    nor on which process is faster. The observation after the end of an episode is the first of
    the next one, and `terminated` and `truncated` stay false; `info` tells what happened:
    `episode` (the one the returned observation belongs to, or −1 when idle), `finished` (whether
    an episode just ended) and with it `success` of the last step, `return` and `length`.
    """

    def reset(self, *, seed: int | None = None, options: dict | None = None):
        """Starts the list.

        Args:
            seed: of this environment's first episode.
            options: `first`, the seed of episode 0; `stride`, between this environment's episodes;
                `num_episodes`, of all environments together.
        """
        self._episode = seed - options['first']
        self._options = options
        return self._begin()

    def _begin(self):
        if self._episode >= self._options['num_episodes']:
            self._episode = -1
            return self._idle_observation(), self._info()
        self._return, self._length = 0.0, 0
        observation, _ = self.env.reset(seed=self._options['first'] + self._episode)
        return observation, self._info()

    def _idle_observation(self) -> np.ndarray:
        return np.zeros(self.observation_space.shape, self.observation_space.dtype)

    def _info(self) -> dict:
        nothing = {'finished': False, 'success': False, 'return': 0.0, 'length': 0}
        return {'episode': self._episode} | nothing

    def step(self, action):
        if self._episode < 0:
            return self._idle_observation(), 0.0, False, False, self._info()
        observation, reward, terminated, truncated, info = self.env.step(action)
        self._return += reward
        self._length += info['transitions']['length']
        if not (terminated or truncated):
            return observation, reward, False, False, self._info()
        outcome = {
            'finished': True,
            'success': bool(info['success']),
            'return': self._return,
            'length': self._length,
        }
        self._episode += self._options['stride']
        observation, info = self._begin()
        return observation, reward, False, False, info | outcome
