"""A toy environment whose every step is known."""

import gymnasium
import numpy as np


class Counter(gymnasium.Env):
    """Counts steps; the episode reset with seed s lasts 2 + s % 5 steps and succeeds if s is even.

    Odd ones run out of time. The observation is (seed, step), the reward the first action.
    """

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)

    seed = 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.seed, self.steps = self.seed if seed is None else seed, 0
        return self._observe(), {}

    def step(self, action):
        self.steps += 1
        over, even = self.steps == 2 + self.seed % 5, self.seed % 2 == 0
        info = {'success': over and even}
        return self._observe(), float(action[0]), over and even, over and not even, info

    def _observe(self):
        return np.array([self.seed, self.steps], np.float32)
