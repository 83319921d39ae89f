"""The paper's methods by name: which settings they stand for."""

import pytest

from experiments.methods import METHODS, expand_method, method_flags, run_config

CUBES = ['cube-double-play-singletask-task2-v0', 'cube-quadruple-play-100m-singletask-task4-v0']


@pytest.mark.parametrize(
    ('method', 'agent', 'horizon', 'num_samples'),
    [
        ('BFN', 'bfn', 1, 4),
        ('QC-BFN', 'bfn', 5, 32),
        ('FQL', 'fql', 1, 1),
        ('QC-FQL', 'fql', 5, 1),
        ('MVP', 'mvp', 5, 16),
        ('MVP-topK', 'mvp', 5, 16),
        ('DFP', 'dfp', 5, 16),
        ('DFP-notopk', 'dfp', 5, 16),
        ('DFP-offline', 'dfp', 1, 1),
        ('DFP-10', 'dfp', 5, 16),
    ],
)
def test_methods_are_those_of_the_table(method, agent, horizon, num_samples):
    for env_name in CUBES:  # tests/test_paper.py has Robomimic's
        config = run_config(method, env_name)
        settings = config.agent
        found = settings['agent_name'], config.horizon_length, settings['num_samples']
        assert found == (agent, horizon, num_samples)
    assert settings['lr'] == 3e-4
    assert settings['batch_size'] == 256
    assert settings['actor_hidden_dims'] == settings['critic_hidden_dims'] == (512,) * 4


@pytest.mark.parametrize('method', ['FQL', 'QC-FQL'])
@pytest.mark.parametrize(
    ('env_name', 'alpha'),
    [
        ('cube-double-play-singletask-task2-v0', 300),
        ('cube-triple-play-singletask-task3-v0', 100),
        ('cube-quadruple-play-100m-singletask-task4-v0', 100),
        ('scene-play-singletask-task2-v0', 300),
        ('puzzle-4x4-play-singletask-task4-v0', 1000),
        ('lift-mh-low_dim', 10000),
        ('square-mh-low_dim', 10000),
    ],
)
def test_alpha_belongs_to_the_domain(method, env_name, alpha):
    assert run_config(method, env_name).agent['alpha'] == alpha


def test_mvp_goes_without_the_constraint_on_cube_triple_only():
    weight = lambda name: run_config('MVP', name).agent['ivc_weight']  # noqa: E731
    assert weight('cube-triple-play-singletask-task2-v0') == 0
    assert [weight(name) for name in CUBES] == [1, 1]


def test_dfp_has_settings_of_its_own_on_robomimic():
    for env_name in ('lift-mh-low_dim', 'square-scripted-low_dim'):
        settings = run_config('DFP', env_name).agent
        assert (settings['top_k'], settings['num_samples']) == (2, 4)
        assert settings['temperatures'] == (0.01, 0.1)
        assert settings['num_candidates'] == 16


def test_dfp_has_the_settings_of_the_paper():
    settings = run_config('DFP', CUBES[0]).agent
    expected = {
        'temperatures': (0.1,), 'num_particles': 8, 'top_k': 4, 'num_candidates': 16,
        'topk_weight': 0.5, 'data_weight': 1.0, 'ema_rate': 1e-4,
    }  # fmt: skip
    assert {name: settings[name] for name in expected} == expected


def test_explicit_flags_win_over_the_method_wherever_they_are():
    argv = ['main.py', '--method=BFN', '--agent.num_samples=8', '--method', 'QC-BFN']
    assert expand_method(argv, CUBES[0]) == [
        'main.py', '--method=QC-BFN', *method_flags('QC-BFN', CUBES[0]), '--agent.num_samples=8',
    ]  # fmt: skip


def test_the_last_method_or_agent_is_the_one_that_counts():
    flags_of_file = ['--method=DFP', '--agent.batch_size=64']
    own = expand_method(['main.py', *flags_of_file, '--agent', 'agents/mine.py'], CUBES[0])
    assert own == ['main.py', '--agent=agents/mine.py', '--agent.batch_size=64']
    back = expand_method(['main.py', '--agent=agents/mine.py', *flags_of_file], CUBES[0])
    assert back == expand_method(['main.py', *flags_of_file], CUBES[0])
    assert '--method=DFP' in back


def test_the_task_is_that_of_the_command_line_or_the_default():
    argv = ['main.py', '--method=FQL']
    assert '--agent.alpha=300' in expand_method(argv, CUBES[0])
    named = [*argv, '--env_name=square-mh-low_dim']
    assert '--agent.alpha=10000' in expand_method(named, CUBES[0])


def test_without_a_method_the_command_line_stays():
    argv = ['main.py', '--agent=agents/bfn.py', '--horizon_length=3']
    assert expand_method(argv, CUBES[0]) == argv


def test_an_unknown_method_is_named():
    with pytest.raises(ValueError, match=r'--method=QCFQL: unknown; there are BFN, QC-BFN, FQL'):
        expand_method(['main.py', '--method=QCFQL'], CUBES[0])


def test_every_method_is_an_agent_with_its_flags():
    assert all(settings['flags'][0].startswith('--agent=') for settings in METHODS.values())
