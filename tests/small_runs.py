"""Small runs in the toy suite: in this process, in a second or two."""

import csv
import os
import signal

import numpy as np
import toy_suite

from training import RunConfig, checkpoints, train

AGENT = {'actor_hidden_dims': (8,), 'critic_hidden_dims': (8,), 'batch_size': 4}


def make_config(tmp_path, **changes) -> RunConfig:
    """Returns a run of 20 updates and 60 environment steps in episodes of up to ten."""
    agent = AGENT | changes.pop('agent', {})
    settings = {
        'env_name': toy_suite.ENV_NAME,
        'suite': 'toy_suite:suite',
        'env_options': {'toy_dataset_dir': str(tmp_path / 'data')},
        'save_dir': str(tmp_path / 'exp'),
        'compilation_cache_dir': None,
        'horizon_length': 3,
        'buffer_size': 900,
        'offline_steps': 20,
        'online_steps': 60,
        'start_training': 10,
        'eval_interval': 25,
        'eval_episodes': 3,
        'eval_envs': 2,
        'log_interval': 10,
    }
    return RunConfig(agent=agent, **(settings | changes))


def start(config, on_metrics=lambda *_: None, **options):
    """Trains without showing progress."""
    return train(config, on_metrics, show_progress=False, **options)


def stop():
    """Asks this process to stop, as a user or a cluster does."""
    os.kill(os.getpid(), signal.SIGTERM)


class At:
    """Does something after the rows of a step, the first time that they are written.

    Args:
        actions: without arguments, by (table, phase, step).
    """

    def __init__(self, actions):
        self.actions = dict(actions)

    def __call__(self, table, phase, step, rows):
        self.actions.pop((table, phase, step), lambda: None)()


def read_table(path, without=('seconds',)):
    """Returns the rows of a table, without the columns that the clock decides."""
    with path.open(newline='') as file:
        return [{k: v for k, v in row.items() if k not in without} for row in csv.DictReader(file)]


def outcome(directory, without=('seconds',)):
    """Returns the results of a run: its agents, its replays, and its tables."""
    # Sums since the last row are 0 in a state that was saved after that row.
    _, arrays = checkpoints.load(checkpoints.find(directory), 'agents', 'replays')
    return arrays, {name: read_table(directory / f'{name}.csv', without) for name in
                    ('offline', 'online', 'eval')}  # fmt: skip


def assert_equal_outcomes(first, second, without=('seconds',)):
    """Bit by bit, and row by row."""
    (arrays, tables), (others, other_tables) = outcome(first, without), outcome(second, without)
    assert arrays.keys() == others.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(array, others[name], err_msg=name)
    assert tables == other_tables
