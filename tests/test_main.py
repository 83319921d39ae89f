"""The programs as a user runs them: a whole small run, and what bad input is answered with."""

import json

import pytest
from processes import run_python
from small_runs import read_table

from envs import make_simulators
from envs.collection import collect
from envs.registry import find_collection
from training import RunConfig, load_agent, train
from training.evaluation import evaluate
from utils.seeds import stack

pytestmark = pytest.mark.slow
ENV_NAME = 'cube-single-play-singletask-task1-v0'


def run(*arguments, program='main.py', check=True):
    """Runs a program from the root of the project, as a user does."""
    result = run_python(program, *arguments, timeout=400)
    if check:
        assert result.returncode == 0, result.stderr[-3000:]
    return result


@pytest.fixture(scope='module')
def dataset_dir(tmp_path_factory):
    directory = tmp_path_factory.mktemp('data')
    name = 'cube-single-play-v0'
    suite = find_collection(name)
    collect(suite, name, 1, directory, num_workers=1, num_val_episodes=0)
    return directory


@pytest.fixture(scope='module')
def finished(dataset_dir, tmp_path_factory):
    """A run of 25 updates and 33 environment steps: its arguments, folder, and what it printed."""
    save_dir = tmp_path_factory.mktemp('exp')
    arguments = [
        f'--env_name={ENV_NAME}',
        f'--ogbench_dataset_dir={dataset_dir}',
        f'--save_dir={save_dir}',
        '--run_group=test',
        '--offline_steps=25',
        '--online_steps=33',
        '--start_training=10',
        '--eval_interval=30',
        '--log_interval=12',
        f'--compilation_cache_dir={save_dir / "cache"}',
        '--agent.actor_hidden_dims=(16,)',
        '--agent.critic_hidden_dims=(16,)',
        '--agent.batch_size=8',
        '--buffer_size=3000',
        '--eval_episodes=2',
        '--eval_envs=2',
    ]
    result = run(*arguments)
    (directory,) = (save_dir / 'test' / ENV_NAME).iterdir()
    return arguments, directory, result


def test_a_run_says_how_it_was_made_and_shows_progress(finished):
    _, directory, result = finished
    written = json.loads((directory / 'flags.json').read_text())
    assert (written['flags']['online_steps'], written['flags']['discount']) == (33, 0.99)
    assert (written['agent']['agent_name'], written['agent']['batch_size']) == ('dfp', 8)
    assert written['data']['source'] == 'collected'
    assert written['versions'].keys() >= {'jax', 'commit'}
    machine = written['machine']
    assert result.stdout.startswith(
        f'On {machine["host"]}: {machine["device"]}, Python {machine["python"]}: main.py --env_name'
    )
    assert directory.name == f'dfp-sd000-{written["identity"]}'
    for words in ('offline: 100%', 'online: 100%', 'success='):
        assert words in result.stderr
    for name in ('offline', 'online'):
        rows = read_table(directory / f'{name}.csv')
        assert all(float(row['actor/data_force_0.1']) > 0 for row in rows)


def test_the_same_command_again_says_that_the_run_is_complete(finished):
    arguments, directory, _ = finished
    before = {path: path.read_bytes() for path in directory.glob('*.csv')}
    result = run(*arguments)
    assert result.stdout.startswith(f'Complete already: {directory} is at online step 33 (--fresh')
    assert {path: path.read_bytes() for path in directory.glob('*.csv')} == before


def test_two_seeds_from_python_are_what_each_is_alone(finished, tmp_path):
    written = json.loads((finished[1] / 'flags.json').read_text())
    settings = written['flags'] | {'agent': written['agent'], 'wandb_mode': 'disabled'}
    settings |= {'save_dir': str(tmp_path), 'num_seeds': 2, 'eval_envs': 4}
    result = train(RunConfig.from_json(settings), show_progress=False)
    for name in ('offline', 'online', 'eval'):
        both = read_table(result.directory / f'{name}.csv', without=('seconds', 'phase'))
        alone = read_table(finished[1] / f'{name}.csv', without=('seconds', 'phase'))
        first, second = ([x for x in both if x['seed'] == seed] for seed in '01')
        for row, expected in zip(first, alone, strict=True):
            row, expected = ({k: float(v or 'nan') for k, v in x.items()} for x in (row, expected))
            assert row == pytest.approx(expected, rel=1e-3, abs=1e-4, nan_ok=True)
        assert name == 'eval' or first[-1] | {'seed': '1'} != second[-1]


def test_a_run_evaluates_to_its_score(finished):
    last = read_table(finished[1] / 'eval.csv')[-1]
    result = run(
        f'--restore_path={finished[1]}', '--eval_episodes=2', '--eval_envs=2',
        program='evaluate.py',
    )  # fmt: skip
    scores = json.loads(result.stdout)
    expected = {name: float(last[name]) for name in ('success', 'return', 'length')}
    assert scores == {'seed': 0, 'simulator_failures': 0} | expected


def test_a_run_evaluates_on_another_task_with_another_choice(finished):
    other = ENV_NAME.replace('task1', 'task2')
    result = run(
        f'--restore_path={finished[1]}', '--eval_episodes=2', '--eval_envs=2',
        f'--env_name={other}', '--success_timing=post', '--num_samples=1',
        program='evaluate.py',
    )  # fmt: skip
    agent, _ = load_agent(finished[1])
    sampled = agent.replace(config=agent.config._replace(num_samples=1, eval_num_samples=0))
    simulators = make_simulators(other, 2, 5, success_timing='post')
    (expected,), _ = evaluate([stack([sampled.policy()])], simulators, 2, [0])
    simulators.end()
    assert json.loads(result.stdout) == {'seed': 0} | expected


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (
            ['--env_name=cube-double-play-singletask-task1-v0'],
            "has {'observations': (37,), 'actions': (5,)}, but the policy was trained with "
            f"{{'observations': (28,), 'actions': (5,)}} of {ENV_NAME}; choose a task",
        ),
        (['--suite=robomimic', '--sparse'], "Unknown command line flag 'sparse'"),
    ],
)
def test_a_task_of_other_sizes_or_options_is_refused_in_one_line(finished, arguments, message):
    result = run(f'--restore_path={finished[1]}', *arguments, program='evaluate.py', check=False)
    assert result.returncode == 1
    (line,) = result.stderr.splitlines()
    assert message in line


@pytest.mark.parametrize(
    ('program', 'arguments', 'message'),
    [
        ('main.py', ['--method=QCFQL', '--agent.no_such_key=1'], '--method=QCFQL: unknown; there'),
        ('main.py', ['--flagfile=none.flags'], 'none.flags'),
        ('evaluate.py', ['--restore_path=/nowhere'], '/nowhere: no checkpoint there'),
        ('evaluate.py', ['--restore_path=x', '--eval_episodes=0'], 'flag --eval_episodes=0'),
        ('reproduce.py', ['plan', '--table=5'], '--table=5: not at --scale=paper'),
        (
            'reproduce.py',
            ['run', '--table=1', '--ray_address=auto', '--jobs=2'],
            'is for this machine only',
        ),
    ],
)
def test_bad_input_is_named_in_one_line_before_anything_starts(
    program, arguments, message, tmp_path
):
    """test_config.py tests the errors of configs; these are the programs' own."""
    save_dir = [] if program == 'evaluate.py' else [f'--save_dir={tmp_path}']
    result = run(*arguments, *save_dir, program=program, check=False)
    assert result.returncode == 1
    (line,) = result.stderr.splitlines()
    assert message in line
    assert not list(tmp_path.rglob('flags.json'))
