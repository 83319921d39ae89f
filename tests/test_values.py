"""What environments return, however they return it."""

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete

from envs import Suite, Task, make_env
from envs.episodes import ActionChunks
from utils.errors import UserError

IMAGE = Box(0, 255, (4, 5, 3), np.uint8)


class Line(gymnasium.Env):
    """Counts its steps. Each of the keyword arguments changes what it returns."""

    action_space = Box(-1, 1, (1,), np.float32)

    def __init__(self, space=None, observe=None, step=lambda *values: values):
        self.observation_space = Box(-9, 9, (2,), np.float32) if space is None else space
        self.observe = observe or (lambda steps: np.full(2, steps, np.float32))
        self.change = step

    def reset(self, *, seed=None, options=None):
        self.steps = 0
        return self.observe(0), {}

    def step(self, action):
        self.steps += 1
        done = self.steps == 3
        return self.change(self.observe(self.steps), -1.0, done, False, {'success': done})


class Lines(Suite):
    name = names = 'lines'

    def __init__(self, score='success', **changes):
        self.score, self.changes = score, changes

    def make_env(self, task, *, render=False, **options):
        return Line(**self.changes)


def make(**changes):
    return make_env(Task('line-v0', Lines(**changes), 'line-data'))


def play(env):
    """Plays an episode in chunks of two."""
    env = ActionChunks(env, 2)
    env.begin(0)
    return [env.play(np.full((2, 1), 0.5, np.float32)) for _ in range(2)]


def test_an_array_that_the_environment_uses_again_is_copied():
    buffer = np.zeros(2, np.float32)

    def observe(steps):
        buffer[:] = steps
        return buffer

    (first, *_), (second, *_) = play(make(observe=observe))
    np.testing.assert_array_equal(first['observations'], [[0, 0], [1, 1]])
    np.testing.assert_array_equal(first['next_observation'], [2, 2])
    np.testing.assert_array_equal(second['next_observation'], [3, 3])


def test_an_action_that_the_environment_changes_is_stored_as_it_was():
    class Changing(Line):
        def step(self, action):
            action *= 0
            return super().step(action)

    suite = Lines()
    suite.make_env = lambda *_, **__: Changing()
    (transitions, *_), _ = play(make_env(Task('line-v0', suite, 'line-data')))
    np.testing.assert_array_equal(transitions['actions'], [[0.5], [0.5]])


@pytest.mark.parametrize('kind', [np.bool_, lambda x: np.array([x])])
def test_numbers_may_be_those_of_numpy(kind):
    def step(observation, reward, terminated, truncated, info):
        success = {'success': kind(info['success'])}
        return observation, np.float32([reward]), kind(terminated), kind(truncated), success

    env = make(step=step)
    env.reset()
    for is_over in (False, False, True):
        _, reward, terminated, truncated, info = env.step(np.zeros(1, np.float32))
        assert (reward, terminated, truncated, info['success']) == (-1.0, is_over, False, is_over)
        types = [type(x) for x in (reward, terminated, truncated, info['success'])]
        assert types == [float, bool, bool, bool]


@pytest.mark.parametrize(
    ('score', 'name', 'expected'),
    [
        ('success', 'success', [False, True, False]),
        ('success', 'is_success', [False, True, False]),
        ('success', 'goal_achieved', [False, True, False]),
        ('success_once', 'success', [False, True, True]),
        ('return', 'success', [None] * 3),
        ('success', 'other', [None] * 3),
    ],
)
def test_success_has_many_names_and_a_suite_says_when_it_counts(score, name, expected):
    """The environment says that it succeeds at the second of three steps."""

    def step(observation, reward, terminated, truncated, info):
        return observation, reward, terminated, truncated, {name: observation[0] == 2}

    env = make(score=score, step=step)
    for _ in range(2):  # the second episode knows nothing of the first
        env.reset()
        assert [env.step(np.zeros(1))[4]['success'] for _ in range(3)] == expected
    chunks = ActionChunks(env, 2)
    chunks.begin(0)
    success = [chunks.play(np.zeros((2, 1)))[2] for _ in range(2)]
    assert success == [False, expected[-1]]


@pytest.mark.parametrize('dtype', [np.float32, np.int64])
@pytest.mark.parametrize('returned', [np.float64, list])
def test_vectors_are_float32_whatever_the_environment_says_and_returns(dtype, returned):
    def observe(steps):
        return [steps, steps] if returned is list else np.full(2, steps, returned)

    env = make(space=Box(-9, 9, (2,), dtype), observe=observe)
    assert env.observation_space == Box(-9, 9, (2,), np.float32)
    assert env.reset()[0].dtype == env.step(np.zeros(1, np.float32))[0].dtype == np.float32


def test_images_stay_bytes_and_observations_may_be_a_dict():
    space = Dict({'image': IMAGE, 'state': Box(-9, 9, (2,), np.float64)})
    env = make(space=space, observe=lambda _: space.sample())
    (transitions, *_), _ = play(env)
    observations = transitions['observations']
    assert observations['image'].shape == (2, 4, 5, 3)
    assert observations['image'].dtype == env.observation_space['image'].dtype == np.uint8
    assert observations['state'].dtype == env.observation_space['state'].dtype == np.float32


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'observe': lambda _: np.zeros(1)}, r'an observation is float64 \(1,\).* float32 \(2,\)'),
        ({'observe': lambda _: np.zeros((2, 1))}, r'an observation is float64 \(2, 1\)'),
        ({'observe': lambda _: None}, r'an observation is object \(\), but its observation_space'),
        (
            {'space': IMAGE, 'observe': lambda _: np.zeros((4, 5, 3))},
            r'an observation is float64 \(4, 5, 3\), .* says uint8 \(4, 5, 3\)',
        ),
        (
            {'space': Dict({'image': IMAGE}), 'observe': lambda _: {'picture': 0}},
            r"an observation has \['picture'\], but its observation_space has \['image'\]",
        ),
        (
            {'space': Dict({'image': IMAGE}), 'observe': lambda _: {'image': np.uint8(0)}},
            r"observation 'image' is uint8 \(\), but",
        ),
        (
            {'step': lambda observation, _, *others: (observation, np.zeros(2), *others)},
            r'the reward of a step has shape \(2,\), but must be one float',
        ),
        (
            {'step': lambda observation, reward, done, _, info: (observation, reward, done, info)},
            r"step returns 4 values, but Gymnasium's returns 5 .*; correct the environment",
        ),
    ],
)
def test_what_is_not_what_it_should_be_is_named_in_one_line(changes, message):
    with pytest.raises(UserError, match=f'^line-v0: .*{message}') as error:
        play(make(**changes))
    assert '\n' not in str(error.value)


@pytest.mark.parametrize('space', [Discrete(3), Dict({'inner': Dict({'x': IMAGE})})])
def test_observations_that_are_no_arrays_are_refused_at_once(space):
    with pytest.raises(UserError, match=r'^line-v0: observations are .*, but agents need a Box'):
        make(space=space)
