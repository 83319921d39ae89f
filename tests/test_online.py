"""The order of things in the online loop, with environments and updates that only keep count."""

import numpy as np
import pytest

import main

HORIZON = 5


class Counted:
    """Agents, buffers and logs in one; knows the updates made and the transitions stored."""

    def __init__(self, updates=0, stored=0):
        self.updates, self.stored = np.asarray(updates), np.asarray(stored)

    def begin_online(self, *_):
        return self

    def to_act(self):
        return self

    def seed_axes(self):
        return None


class Environments:
    """Every episode of seed i has `lengths[i]` steps."""

    def __init__(self, lengths):
        self.lengths, self.left = np.array(lengths), np.array(lengths)

    def reset(self, seed):
        assert seed == [7, 8][: len(self.left)]
        return np.zeros((len(self.left), 1)), {}

    def step_async(self, action):
        self.asked = action[1]

    def step_wait(self):
        length = np.minimum(self.asked, self.left)
        self.left = self.left - length
        done = (self.left == 0) & (length > 0)
        self.left = np.where(done, self.lengths, self.left)
        transitions = {'length': length, 'done': done, '_length': None}
        info = {'transitions': transitions, 'success': done}
        return np.zeros((len(length), 1)), None, None, None, info


@pytest.fixture
def play(monkeypatch):
    """Runs the loop; returns what it did, in order, and what it logged."""

    def run(lengths, **flags):
        done, logged = [], []
        seeds = [7, 8][: len(lengths)]
        values = {
            'online_steps': 23, 'start_training': 0, 'eval_interval': 10, 'log_interval': 100,
            'overlap': True, 'horizon_length': HORIZON, 'utd_ratio': 1,
        }  # fmt: skip
        arguments = [f'--{name}={value}' for name, value in (values | flags).items()]
        main.FLAGS(['main.py', *arguments])

        def act(agents, observations, rngs, steps):
            done.append(('act', steps.copy(), agents.updates))
            return np.zeros((len(seeds), HORIZON, 1))

        def train(agents, buffers, num_updates, totals):
            done.append(('train', num_updates, buffers.stored))
            return Counted(agents.updates + num_updates), totals

        def add_transitions(buffers, transitions):
            return Counted(stored=buffers.stored + transitions['length'])

        monkeypatch.setattr(main, 'act', act)
        monkeypatch.setattr(main, 'train', train)
        monkeypatch.setattr(main, 'add_transitions', add_transitions)
        monkeypatch.setattr(main, 'place', lambda tree, axes: tree)
        monkeypatch.setattr(main, 'zero_totals', lambda *_: {})
        monkeypatch.setattr(main, 'averages', lambda _: [{}] * len(seeds))

        class Bar:
            n = 0

            def update(self, num):
                self.n += num

        class Logs:
            def training(self, phase, step, rows):
                logged.append(list(rows))

        def evaluate_at(phase, step, agents, bar):
            done.append(('evaluate', step, agents.updates))

        zeros = np.zeros(len(seeds), int)
        main.online(
            Counted(zeros), Counted(stored=zeros), Environments(lengths), seeds, Logs(),
            evaluate_at, Bar(),
        )  # fmt: skip
        return done, logged

    return run


def test_acting_parameters_are_one_chunk_old_and_updates_see_all_data_of_their_time(play):
    done, _ = play([1000])
    for kind, steps, updates in done:
        if kind == 'act' and steps[0] % 10:  # at 0, 10 and 20 an evaluation waits for all updates
            assert updates == steps - HORIZON
        if kind == 'evaluate':
            assert updates == steps
    stored = [stored[0] for kind, _, stored in done if kind == 'train']
    assert stored == [5, 10, 15, 20, 23]


def test_without_overlap_all_updates_owed_are_made_before_the_next_chunk_is_chosen(play):
    done, _ = play([1000], overlap=False)
    assert all(updates == steps for kind, steps, updates in done if kind in ('act', 'evaluate'))


def test_updates_begin_at_start_training_and_follow_the_ratio(play):
    done, _ = play([1000], start_training=8, utd_ratio=3)
    evaluations = [(steps, int(updates[0])) for kind, steps, updates in done if kind == 'evaluate']
    assert evaluations == [(0, 0), (10, 9), (20, 39), (23, 48)]


def test_seeds_with_shorter_chunks_are_waited_for(play):
    """Episodes of 3 steps cut each chunk to 3: that seed is behind, and evaluated at the same."""
    done, logged = play([1000, 3], log_interval=10)
    for kind, steps, updates in done:
        if kind == 'evaluate':
            assert updates.tolist() == [steps, steps]
    acts = [steps.tolist() for kind, steps, _ in done if kind == 'act']
    assert acts[:5] == [[0, 0], [5, 3], [10, 6], [10, 9], [10, 12]]  # the first waits at 10
    assert [row['episodes'] for rows in logged for row in rows] == [0, 4, 0, 3, 0, 0]
