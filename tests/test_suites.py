"""Suites: found by name, their options checked; a user's own from its module to its data."""

import pickle
import textwrap

import numpy as np
import pytest
import toy_suite
from gymnasium.spaces import Box, Discrete
from processes import run_python

import envs
from envs import Option, Suite, Task, check_options, find_task, load_suite

TOY = find_task(toy_suite.ENV_NAME, 'toy_suite:suite')
CUBE = 'cube-double-play-singletask-task2-v0'


def test_registered_suites_are_searched_unless_one_is_named():
    assert [suite.name for suite in envs.suites()] == ['ogbench', 'robomimic']
    assert find_task(CUBE).suite is find_task(CUBE, 'ogbench').suite is envs.suites()[0]
    assert Task(toy_suite.ENV_NAME, toy_suite.suite, toy_suite.DATASET) == TOY
    assert find_task(toy_suite.ENV_NAME, toy_suite.suite) == TOY
    with pytest.raises(ValueError, match=rf'--env_name={CUBE}: unknown; there are toy-push-v0'):
        find_task(CUBE, 'toy_suite:suite')
    with pytest.raises(ValueError, match=r'--env_name=toy-push-v0: unknown; there are .*cube-'):
        find_task(toy_suite.ENV_NAME)


@pytest.mark.parametrize('env_name', [toy_suite.ENV_NAME, CUBE])
def test_a_task_that_travels_keeps_its_suite(env_name):
    task = TOY if env_name == TOY.env_name else find_task(CUBE)
    again = pickle.loads(pickle.dumps(task))
    assert again == task
    assert again.suite is task.suite


@pytest.mark.parametrize(
    ('reference', 'message'),
    [
        ('toy', 'must be ogbench, robomimic or, '),
        ('needs_more:suite', "importing needs_more failed .*named 'more'.* must be in PYTHONPATH"),
        ('toy_suite:Toy', 'has no Toy that is an object of a subclass of Suite'),
    ],
)
def test_a_suite_that_is_not_there_is_an_error(tmp_path, monkeypatch, reference, message):
    (tmp_path / 'needs_more.py').write_text('import more')
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match=f'^--suite={reference}: .*{message}'):
        load_suite(reference)
    with pytest.raises(ValueError, match=f'^--suite={reference}'):
        find_task(toy_suite.ENV_NAME, reference)


class Optional(Suite):
    name = 'optional'
    options = (
        Option('flat', False, 'A bool.'),
        Option('count', 3, 'An int.'),
        Option('size', 1.0, 'A float.'),
        Option('kind', 'a', 'One of two.', choices=('a', 'b')),
        Option('place', None, 'A str or nothing.', type=str),
    )


def test_options_are_complete_and_of_their_type():
    defaults = {'flat': False, 'count': 3, 'size': 1.0, 'kind': 'a', 'place': None}
    assert check_options(Optional()) == defaults
    given = {'flat': True, 'count': 0, 'size': 2, 'kind': 'b', 'place': 'x'}
    checked = check_options(Task('x', Optional(), 'x'), given)
    assert checked == given
    assert type(checked['size']) is float
    assert check_options(find_task(CUBE)) == {
        'sparse': False,
        'success_timing': 'pre',
        'ogbench_dataset_dir': None,
    }


@pytest.mark.parametrize(
    ('name', 'value', 'message'),
    [
        ('sparse', True, '--sparse=True: not an option of suite optional; its options: flat, c'),
        ('flat', 1, '--flat=1: must be of type bool'),
        ('count', 2.0, '--count=2.0: must be of type int'),
        ('kind', 'c', r'--kind=c: must be one of a, b \(One of two.\)'),
        ('place', 3, '--place=3: must be of type str'),
    ],
)
def test_senseless_options_are_errors(name, value, message):
    with pytest.raises(ValueError, match=message):
        check_options(Optional(), {name: value})


def test_actions_are_mapped_to_the_bounds_of_the_environment():
    env = envs.make_env(TOY, toy_time_limit=3)
    assert env.action_space == Box(-1, 1, (1,), np.float32)
    env.reset(seed=0)
    for action, push in ((1, 2), (-1, -2), (0.25, 0.5)):
        observation, _, terminated, truncated, info = env.step(np.array([action], np.float32))
        assert observation[1] == push
        assert info['success'] == terminated
    assert truncated  # by the suite's own option


class Odd(Suite):
    """Makes environments with any actions."""

    def __init__(self, actions):
        self.actions = actions

    def make_env(self, task, *, render=False, **options):
        env = toy_suite.Push()
        env.action_space = self.actions
        return env


def make_odd(actions):
    return envs.make_env(Task('odd-v0', Odd(actions), 'odd'))


@pytest.mark.parametrize(
    ('space', 'message'),
    [
        (Discrete(3), 'actions are Discrete.*vectors of real numbers'),
        (Box(-1, np.inf, (1,)), 'actions are Box.*finite bounds'),
        (Box(1, 1, (1,)), 'actions are Box.*bounds that differ; give'),
    ],
)
def test_actions_that_agents_cannot_take_are_errors(space, message):
    with pytest.raises(ValueError, match=f'^odd-v0: {message}'):
        make_odd(space)


@pytest.mark.parametrize('dtype', [np.float32, np.float64])
@pytest.mark.parametrize('low', [-0.7, 0.3])
def test_mapped_actions_stay_within_bounds_and_reach_them(dtype, low):
    space = Box(low, 0.9, (1,), dtype)
    env = make_odd(space)
    given = []
    step = env.unwrapped.step
    env.unwrapped.step = lambda action: given.append(action) or step(action)
    env.reset()
    for action in (-1, 1, 0):
        env.step(np.array([action], np.float32))
    assert all(action in space and action.dtype == dtype for action in given)
    np.testing.assert_array_equal(given[:2], [space.low, space.high])
    np.testing.assert_allclose(given[2], (low + 0.9) / 2, rtol=1e-6)


@pytest.mark.slow
def test_a_suite_defined_in_the_main_program_plays_and_collects_in_processes(tmp_path):
    code = """
    import envs, jax, pathlib, toy_suite

    class Mine(toy_suite.Toy):
        name = 'mine'
        def make_env(self, task, **options):
            return Env()

    class Env(toy_suite.Push):
        def reset(self, **options):
            assert 'jax' not in __import__('sys').modules
            return super().reset(**options)

    envs.register(Mine())
    simulators = envs.make_simulators(toy_suite.ENV_NAME, 2, 5)
    print(len(simulators.begin({i: envs.Start(i) for i in range(2)})))

    from envs.collection import collect
    print(len(collect(Mine(), toy_suite.DATASET, 2, pathlib.Path('here'), num_workers=2)))
    """
    path = tmp_path / 'program.py'
    path.write_text(textwrap.dedent(code))
    assert run_python(path, cwd=tmp_path, check=True).stdout == '2\n1\n'
