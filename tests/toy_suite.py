"""A user's own suite, in a module of its own: a point on a line that is pushed to a goal.

--suite=toy_suite:suite --env_name=toy-push-v0 --toy_dataset_dir=<somewhere>
"""

import os
from pathlib import Path

import gymnasium
import numpy as np

from envs.datasets import npz_dataset, obtain
from envs.suite import Component, Interface, Option, Suite, Task

ENV_NAME, DATASET = 'toy-push-v0', 'toy-data-v0'
BOUND = 2.0  # of an action, the push
START, GOAL_SIZE = 5.0, 0.5


class Push(gymnasium.Env):
    """The push [1] in [-2, 2] moves the point; near 0 the episode ends with success.

    The observation [3] is (position, last push, step / time_limit); the reward is −|position| / 5.
    """

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (3,), np.float32)
    action_space = gymnasium.spaces.Box(-BOUND, BOUND, (1,), np.float64)
    metadata = {'render_modes': ['rgb_array']}  # noqa: RUF012

    def __init__(self, time_limit=10, render=False):
        self.time_limit = time_limit
        self.render_mode = 'rgb_array' if render else None

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.position, self.push, self.steps = self.np_random.uniform(-START, START), 0.0, 0
        return self._observe(), {}

    def step(self, action):
        assert action in self.action_space
        self.push = float(action[0])
        self.position += self.push + 0.01 * self.np_random.normal()
        self.steps += 1
        success = abs(self.position) < GOAL_SIZE
        truncated = self.steps >= self.time_limit and not success
        return self._observe(), -abs(self.position) / 5, success, truncated, {'success': success}

    def render(self):
        """Returns an image that is as bright as the point is far from the goal."""
        if self.render_mode is None:
            return None
        return np.full((16, 24, 3), min(255, int(40 * abs(self.position))), np.uint8)

    def _observe(self):
        return np.array([self.position, self.push, self.steps / self.time_limit], np.float32)


class Pusher:
    """Pushes towards the goal with noise, so that episodes end after one to ten steps."""

    def __init__(self):
        self.env = Push()

    def play(self, seed):
        rng = np.random.default_rng(seed)
        observation, _ = self.env.reset(seed=int(rng.integers(2**31)))
        rows, done = [], False
        while not done:
            action = np.clip(rng.normal(-observation[:1] / 2, 0.5), -BOUND, BOUND)
            next_observation, reward, terminated, truncated, _ = self.env.step(action)
            rows.append((observation, action, reward, not terminated, False))
            observation, done = next_observation, terminated or truncated
        rows.append((observation, np.zeros(1), 0.0, True, True))
        keys = ('observations', 'actions', 'rewards', 'masks', 'terminals')
        return {
            key: np.array(column, bool if key == 'terminals' else np.float32)
            for key, column in zip(keys, zip(*rows, strict=True), strict=True)
        }


def write_dataset(directory, num_episodes=100):
    """Writes the 'public' data into `directory`; returns its path."""
    pusher = Pusher()
    episodes = [pusher.play((0, episode)) for episode in range(num_episodes)]
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f'{DATASET}.npz'
    np.savez(path, **{key: np.concatenate([e[key] for e in episodes]) for key in episodes[0]})
    return path


class Toy(Suite):
    """One task, data made on first use, two options."""

    name = 'toy'
    names = ENV_NAME
    dataset_names = DATASET
    options = (
        Option('toy_time_limit', 10, 'Steps before an episode ends without success.'),
        Option('toy_dataset_dir', None, 'Where the data is.', type=str, decides_result=False),
    )

    def parse(self, env_name):
        return Task(env_name, self, DATASET) if env_name == ENV_NAME else None

    def make_env(self, task, *, render=False, toy_time_limit=10, **options):
        if render and os.environ.get('MUJOCO_GL') == 'broken':
            raise ImportError('libbroken.so: cannot open shared object file')
        return Push(toy_time_limit, render)

    def interface(self, task, **options):
        return Interface(
            (
                Component('position', 1, 'm'),
                Component('last push', 1, 'm'),
                Component('part of the time that has passed', 1, '1'),
            ),
            (Component('push', 1, '2 m'),),
            4.0,
        )

    def make_dataset(self, task, *, request, toy_dataset_dir=None, **options):
        if toy_dataset_dir is None:
            raise ValueError('--toy_dataset_dir is missing')
        directory = Path(toy_dataset_dir)
        paths, provenance = obtain(
            self, DATASET, directory, request, lambda: str(write_dataset(directory)), 100
        )
        return npz_dataset(DATASET, paths, self.make_env(task), provenance)

    def parse_dataset(self, name):
        return name if name == DATASET else None

    def make_scripted_policy(self, dataset_name):
        return Pusher()


suite = Toy()
