"""The paper's methods by name: which settings they stand for."""

from experiments.methods import METHODS, run_config
from experiments.run_flags import parse
from training import RunConfig

CUBES = ['cube-double-play-singletask-task2-v0', 'cube-quadruple-play-100m-singletask-task4-v0']


# Settings that are not in the paper (tests/test_paper.py has those), by domain.
TASKS = {
    'cube-single': 'cube-single-play-singletask-task2-v0',
    'cube-double': CUBES[0],
    'cube-triple': 'cube-triple-play-singletask-task3-v0',
    'cube-quadruple': CUBES[1],
    'scene': 'scene-play-singletask-task2-v0',
    'puzzle-3x3': 'puzzle-3x3-play-singletask-task4-v0',
    'puzzle-4x4': 'puzzle-4x4-play-singletask-task4-v0',
    'lift': 'lift-mh-low_dim',
}
ALPHA = {'cube-double': 300, 'cube-triple': 100, 'cube-quadruple': 100, 'scene': 300,
         'puzzle-4x4': 1000, 'lift': 10000}  # fmt: skip
STRONG_ALPHA = {'cube-double': 300, 'cube-triple': 30, 'cube-quadruple': 100, 'scene': 300,
                'puzzle-3x3': 300, 'puzzle-4x4': 1}  # fmt: skip
DRIFTQL = {  # τ, α, G, numbers of noise (0: those of the chunk), q_agg
    'cube-single': (0.02, 60, 32, 0, 'mean'),
    'cube-double': (0.2, 100, 4, 8, 'mean'),
    'scene': (0.2, 250, 32, 0, 'min'),
    'puzzle-3x3': (0.5, 50, 32, 0, 'min'),
    'puzzle-4x4': (0.8, 300, 32, 0, 'mean'),
}


def settings_of(method, task, *names):
    agent = run_config(method, TASKS[task]).agent
    return tuple(agent[name] for name in names)


def test_baselines_have_the_settings_of_their_releases_on_each_domain():
    for method in ('FQL', 'QC-FQL'):
        assert {task: settings_of(method, task, 'alpha')[0] for task in ALPHA} == ALPHA
    critic = 'num_qs', 'q_agg', 'rho', 'rank_agg'
    for task, alpha in STRONG_ALPHA.items():
        assert settings_of('QC-FQL-10', task, 'alpha') == (alpha,)
        assert settings_of('QC-FQL-10', task, *critic) == settings_of('QAM', task, *critic)
    names = 'bandwidth', 'alpha', 'num_particles', 'noise_dim', 'q_agg'
    assert {task: settings_of('DriftQL', task, *names) for task in DRIFTQL} == DRIFTQL
    discounts = {task: run_config('DriftQL', TASKS[task]).discount for task in DRIFTQL}
    assert {task for task, x in discounts.items() if x == 0.995} == {'cube-single', 'scene'}
    ivc = {task for task in TASKS if not settings_of('MVP', task, 'ivc_weight')[0]}
    assert ivc == {'cube-triple'}


def test_explicit_flags_win_over_the_method_wherever_they_are():
    config = parse(['main.py', '--method=BFN', '--agent.num_samples=8', '--method', 'QC-BFN'])
    assert config == run_config('QC-BFN', RunConfig.env_name, {'num_samples': 8})
    config = parse(['main.py', '--horizon_length=3', '--method=QC-BFN'])
    assert config == run_config('QC-BFN', RunConfig.env_name, horizon_length=3)
    low_dim = ['main.py', '--method=DFP', '--env_name=lift-mh-low_dim']
    assert parse([*low_dim, '--agent.temperatures=(0.5,)']).agent['temperatures'] == (0.5,)


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
