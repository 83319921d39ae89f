"""A suite whose only observation is an image: a bright column says which action is right."""

from pathlib import Path

import gymnasium
import numpy as np

from envs.datasets import npz_dataset
from envs.suite import Option, Suite, Task

ENV_NAME, SIZE, STEPS = 'column-v0', 12, 4


class Column(gymnasium.Env):
    """The action [1] names the place of the column, −1 to 1 from left to right; it moves on."""

    observation_space = gymnasium.spaces.Box(0, 255, (SIZE, SIZE, 1), np.uint8)
    action_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps, self.misses = 0, 0
        return self._move(), {}

    def step(self, action):
        self.misses += abs(float(action[0]) - self.place) > 0.5
        self.steps += 1
        reward = -abs(float(action[0]) - self.place)
        done = self.steps == STEPS
        return self._move(), reward, False, done, {'success': not self.misses}

    def _move(self):
        column = self.np_random.integers(SIZE)
        self.place = 2 * column / (SIZE - 1) - 1
        image = np.zeros((SIZE, SIZE, 1), np.uint8)
        image[:, column] = 255
        return image


def write_data(path, episodes=300):
    """Demonstrations with a little noise."""
    env, rng = Column(), np.random.default_rng(0)
    rows = []
    for episode in range(episodes):
        observation, done = env.reset(seed=episode)[0], False
        while not done:
            action = np.clip([env.place + 0.1 * rng.normal()], -1, 1)
            after, reward, _, done, _ = env.step(action)
            rows.append((observation, action, reward, False))
            observation = after
        rows.append((observation, np.zeros(1), 0.0, True))
    names = ('observations', 'actions', 'rewards', 'terminals')
    np.savez(path, **dict(zip(names, map(np.array, zip(*rows, strict=True)), strict=True)))


class Pixels(Suite):
    name, names = 'pixels', ENV_NAME
    options = (Option('pixel_data', '', 'The file.', decides_result=False),)

    def parse(self, env_name):
        return Task(env_name, self, 'column-data') if env_name == ENV_NAME else None

    def make_env(self, task, **options):
        return Column()

    def make_dataset(self, task, *, pixel_data, **options):
        return npz_dataset(task.dataset, [Path(pixel_data)], Column())


suite = Pixels()
