"""The toy suite with simulators that fail on order."""

import os
import pathlib
import signal
import time

import numpy as np
import toy_suite

from envs.suite import Option, Task
from utils.errors import UserError


def order(directory, *faults):
    """Orders faults `(kind, step)`, one after the other; each happens once.

    Args:
        directory: that the simulators know.
        faults: before which step of an episode (0: its reset), and what: 'die' (SIGKILL), 'stop'
            (SIGSTOP), 'sleep', 'raise', 'refuse' (a UserError), 'bug' (raise, again and again),
            'blind' (its observation is NaN), 'reward' (its reward is NaN).
    """
    directory.mkdir(exist_ok=True)
    for number, (kind, step) in enumerate(faults):
        (directory / f'{number}-{kind}-{step}').touch()


class FaultyPush(toy_suite.Push):
    def __init__(self, time_limit, directory):
        super().__init__(time_limit)
        self.directory = pathlib.Path(directory)

    def reset(self, *, seed=None, options=None):
        self._obey(0)
        return super().reset(seed=seed, options=options)

    def step(self, action):
        kind = self._obey(self.steps + 1)
        observation, reward, *rest = super().step(action)
        if kind == 'blind':
            observation = np.full_like(observation, np.nan)
        return observation, np.nan if kind == 'reward' else reward, *rest

    def _obey(self, step):
        for path in sorted(self.directory.glob('*'))[:1]:
            _, kind, when = path.name.split('-')
            if int(when) == step:
                self._fail(path, kind)
                return kind
        return None

    def _fail(self, path, kind):
        if kind == 'bug':
            raise ZeroDivisionError('by design')
        try:
            path.unlink()
        except FileNotFoundError:  # another simulator did as it says
            return
        if kind == 'die':
            os.kill(os.getpid(), signal.SIGKILL)
        if kind == 'stop':
            os.kill(os.getpid(), signal.SIGSTOP)
        if kind == 'sleep':
            time.sleep(60)
        if kind == 'raise':
            raise ZeroDivisionError('by design')
        if kind == 'refuse':
            raise UserError('as its user can put right')


class Faulty(toy_suite.Toy):
    """The same task and data. Without `fault_dir`, nothing fails."""

    name = 'faulty'
    options = (
        *toy_suite.Toy.options,
        Option('fault_dir', None, 'Where faults are ordered.', type=str, decides_result=False),
    )

    def parse(self, env_name):
        return Task(env_name, self, toy_suite.DATASET) if env_name == toy_suite.ENV_NAME else None

    def make_env(self, task, *, render=False, toy_time_limit=10, fault_dir=None, **options):
        if fault_dir is None:
            return toy_suite.Push(toy_time_limit)
        return FaultyPush(toy_time_limit, fault_dir)


suite = Faulty()
