"""The paper's methods by name: which settings they stand for."""

import pytest

from experiments.methods import METHODS, run_config
from experiments.run_flags import parse
from training import RunConfig

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
        ('DFP-MS', 'dfp', 5, 16),
        ('DFP-notopk', 'dfp', 5, 16),
        ('DFP-offline', 'dfp', 1, 1),
        ('DFP-10', 'dfp', 5, 16),
        ('QC-FQL-10', 'fql', 5, 1),
        ('DriftQL', 'driftql', 1, 1),
        ('FMQ', 'fmq', 5, 32),
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


ALPHAS = {  # of FQL and QC-FQL, and of QC-FQL-10
    'cube-double-play-singletask-task2-v0': (300, 300),
    'cube-triple-play-singletask-task3-v0': (100, 30),
    'cube-quadruple-play-100m-singletask-task4-v0': (100, 100),
    'scene-play-singletask-task2-v0': (300, 300),
    'puzzle-4x4-play-singletask-task4-v0': (1000, 1),
    'lift-mh-low_dim': (10000, 10000),
}


@pytest.mark.parametrize('env_name', ALPHAS)
def test_alpha_belongs_to_the_domain_and_the_strong_baseline_has_qams_critic(env_name):
    alphas = (run_config(name, env_name).agent['alpha'] for name in ('FQL', 'QC-FQL', 'QC-FQL-10'))
    fql, strong = ALPHAS[env_name]
    assert tuple(alphas) == (fql, fql, strong)
    settings, critic = run_config('QC-FQL-10', env_name).agent, run_config('QAM', env_name).agent
    for name in ('num_qs', 'q_agg', 'rho', 'rank_agg'):
        assert settings[name] == critic[name]
    assert (settings['grad_clip'], critic['grad_clip']) == (0, 1)  # only QAM's own agents clip


DRIFTQL = {  # τ, α, γ, G, numbers of noise (0: those of the chunk), q_agg
    'cube-single-play-singletask-task2-v0': (0.02, 60, 0.995, 32, 0, 'mean'),
    'cube-double-play-singletask-task2-v0': (0.2, 100, 0.99, 4, 8, 'mean'),
    'scene-play-singletask-task2-v0': (0.2, 250, 0.995, 32, 0, 'min'),
    'puzzle-3x3-play-singletask-task4-v0': (0.5, 50, 0.99, 32, 0, 'min'),
    'puzzle-4x4-play-singletask-task4-v0': (0.8, 300, 0.99, 32, 0, 'mean'),
}


@pytest.mark.parametrize('env_name', DRIFTQL)
def test_driftql_has_the_settings_of_its_release(env_name):
    config = run_config('DriftQL', env_name)
    own = config.agent
    found = own['bandwidth'], own['alpha'], config.discount, own['num_particles']
    assert (*found, own['noise_dim'], own['q_agg']) == DRIFTQL[env_name]
    assert (own['kernel'], config.online_steps) == ('gaussian', 0)


def test_mvp_goes_without_the_constraint_on_cube_triple_only():
    weight = lambda name: run_config('MVP', name).agent['ivc_weight']  # noqa: E731
    assert weight('cube-triple-play-singletask-task2-v0') == 0
    assert [weight(name) for name in CUBES] == [1, 1]


def test_explicit_flags_win_over_the_method_wherever_they_are():
    config = parse(['main.py', '--method=BFN', '--agent.num_samples=8', '--method', 'QC-BFN'])
    assert config == run_config('QC-BFN', RunConfig.env_name, {'num_samples': 8})
    config = parse(['main.py', '--horizon_length=3', '--method=QC-BFN'])
    assert config == run_config('QC-BFN', RunConfig.env_name, horizon_length=3)
    low_dim = ['main.py', '--method=DFP', '--env_name=lift-mh-low_dim']
    assert parse([*low_dim, '--agent.temperatures=(0.5,)']).agent['temperatures'] == (0.5,)


def test_the_last_method_or_agent_wins(tmp_path):
    mine = tmp_path / 'mine.py'
    mine.write_text('from agents.dfp import DFPAgent as agent_class, get_config')
    of_file = ['--method=QC-BFN', '--agent.batch_size=64']
    own = parse(['main.py', *of_file, '--agent', str(mine)])
    assert own == RunConfig({'batch_size': 64}, agent_file=str(mine))
    back = parse(['main.py', f'--agent={mine}', *of_file])
    assert back == parse(['main.py', *of_file])
    assert back.method == 'QC-BFN'


def test_a_method_may_set_any_setting_of_a_run_or_its_suite_from_both_sides(monkeypatch):
    """As FQL does on some mazes."""
    own = {'agent': 'agents/fql.py', 'discount': 0.995, 'overlap': False, 'sparse': True}
    own |= {'tasks': {'cube-double-*': {'utd_ratio': 2, 'agent.alpha': 7}}}
    monkeypatch.setitem(METHODS, 'own', own)
    config = run_config('own', CUBES[0])
    assert config == parse(['main.py', '--method=own', f'--env_name={CUBES[0]}'])
    assert (config.discount, config.overlap, config.utd_ratio) == (0.995, False, 2)
    assert (config.agent['alpha'], config.env_options) == (7.0, {'sparse': True})
    assert run_config('own', CUBES[1]).utd_ratio == 1
    explicit = parse(['main.py', '--method=own', '--discount=0.9', '--overlap', '--nosparse'])
    assert (explicit.discount, explicit.overlap) == (0.9, True)
    assert explicit == run_config(
        'own', RunConfig.env_name, discount=0.9, overlap=True, sparse=False
    )
