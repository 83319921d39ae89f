"""The rows of the paper: their published settings, and that each runs on each of its tasks."""

import csv
import dataclasses
import pathlib
import re
import subprocess

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from small_agents import make_spec

from agents import make_agent
from envs import check_options, find_task
from experiments.methods import METHODS, run_config
from experiments.run_flags import parse
from training.run import describe
from utils.networks import MLP
from utils.replay import Replay, Rows

ROOT = pathlib.Path(__file__).parents[1]

CUBES = [
    f'cube-{cubes}-singletask-task{task}-v0'
    for cubes in ('double-play', 'triple-play', 'quadruple-play-100m')
    for task in (2, 3, 4)
]
ROBOMIMIC = ['lift-mh-low_dim', 'can-mh-low_dim', 'square-mh-low_dim']
OFFLINE = [  # of table 7
    'cube-single-play-singletask-task2-v0',
    'cube-double-play-singletask-task2-v0',
    'scene-play-singletask-task2-v0',
    'puzzle-3x3-play-singletask-task4-v0',
    'puzzle-4x4-play-singletask-task4-v0',
]
ROWS = ['BFN', 'QC-BFN', 'FQL', 'QC-FQL', 'MVP', 'MVP-topK', 'DFP', 'DFP-notopk']

# ---- published settings -------------------------------------------------------------------------

IN_THE_CODE = {'optimizer', 'policy activation', 'value activation'}


def table(name):
    """The rows of a table of hyperparameters."""
    with (ROOT / 'experiments/paper/hyperparameters.csv').open(newline='') as file:
        rows = [row for row in csv.DictReader(file) if row['table'].startswith(name)]
    assert rows
    return rows


def setting(config, parameter):
    """A run's value for a parameter of the paper, in the paper's terms."""
    agent, updates = config.agent, config.offline_steps + config.utd_ratio * config.online_steps
    return {
        'batch size': lambda: agent['batch_size'],
        'discount factor': lambda: config.discount,
        'learning rate': lambda: agent['lr'],
        'target network update rate': lambda: agent['tau'],
        'offline training steps': lambda: config.offline_steps,
        'online training steps': lambda: config.online_steps,
        'total gradient steps': lambda: updates,
        'policy network width': lambda: max(agent['actor_hidden_dims']),
        'policy network hidden layers': lambda: len(agent['actor_hidden_dims']),
        'policy layer normalization': lambda: agent['actor_layer_norm'],
        'value network width': lambda: max(agent['critic_hidden_dims']),
        'value network hidden layers': lambda: len(agent['critic_hidden_dims']),
        'value layer normalization': lambda: agent['critic_layer_norm'],
        'value ensemble size': lambda: agent['num_qs'],
        'value ensemble operator': lambda: agent['q_agg'],
        'chunking horizon': lambda: config.horizon_length,
        'candidates for top-K': lambda: agent['num_candidates'],
        'generated actions': lambda: agent['num_particles'],
        'drift weight': lambda: agent['topk_weight'],
        'actor EMA smoothing': lambda: agent['ema_rate'],
        'best-of-N candidates': lambda: agent['num_samples'],
        'top-K positive set size': lambda: agent['top_k'],
        'kernel bandwidth': lambda: tuple(T / 2 for T in agent['temperatures']),
    }[parameter]()


def published(row):
    """The value in a row, as a Python value."""
    value = row['value']
    if row['parameter'] == 'kernel bandwidth':
        return tuple(float(part) for part in value.split(';'))
    named = {'False': False, 'True': True, 'mean': 'mean', 'off': 1}  # off: one sample acts
    return named[value] if value in named else float(value)


def rows_of(text):
    """The methods that a row of table 5 applies to."""
    few = ['BFN', 'FQL']
    return {
        'all methods': ROWS,
        'all methods but FQL and BFN': [method for method in ROWS if method not in few],
        'FQL and BFN': few,
    }[text]


def tasks_of(text):
    """The tasks that a row of tables 5 and 8 applies to."""
    if text in OFFLINE:
        return [text]
    return {
        'OGBench cube and Robomimic': CUBES + ROBOMIMIC,
        'OGBench cube': CUBES,
        'Robomimic lift/can/square': ROBOMIMIC,
        'all tasks of table 7': OFFLINE,
    }[text]


def assert_has(method, env_name, row):
    found = setting(run_config(method, env_name), row['parameter'])
    assert found == pytest.approx(published(row)), (method, env_name, row)


def test_all_methods_share_what_the_paper_says_they_share():
    for row in table('5'):
        if row['scope'] == 'shared' and row['parameter'] not in IN_THE_CODE:
            for method in rows_of(row['applies_to']):
                for env_name in (CUBES[0], ROBOMIMIC[0]):
                    assert_has(method, env_name, row)


def test_dfp_has_the_settings_of_its_suite():
    for row in table('5'):
        if row['scope'] == 'DFP':
            for env_name in tasks_of(row['applies_to']):
                assert_has('DFP', env_name, row)
                if row['parameter'] != 'top-K positive set size':
                    assert_has('DFP-notopk', env_name, row)


def test_offline_dfp_has_the_settings_of_its_task():
    for row in table('8'):
        for env_name in tasks_of(row['applies_to']):
            assert_has('DFP-offline', env_name, row)
    for env_name in OFFLINE:
        config = run_config('DFP-offline', env_name)
        assert (config.offline_steps, config.online_steps) == (1_000_000, 0)
        assert config.agent['topk_phases'] in ('offline', 'both')
        assert not config.agent['eval_num_samples']


def test_what_the_paper_says_of_optimiser_and_activation_is_in_the_code():
    config = run_config('BFN', CUBES[0], {'actor_hidden_dims': (4,), 'critic_hidden_dims': (4,)})
    agent = jax.eval_shape(lambda: make_agent(describe(config, make_spec(3, 2)), seed=0))
    assert isinstance(agent.opt_state[0], optax.ScaleByAdamState)
    network, x = MLP((4,), 1), jnp.linspace(-3, 3, 5)[:, None]
    params = network.init(jax.random.PRNGKey(0), x)
    first, last = (params['params'][f'ConcatDense_{i}'] for i in (0, 1))
    hidden = jax.nn.gelu(x @ first['kernel'] + first['bias'])
    expected = hidden @ last['kernel'] + last['bias']
    np.testing.assert_allclose(network.apply(params, x), expected, rtol=1e-5, atol=1e-6)


def differences(method, other, env_name):
    """The settings in which one method differs from another."""
    ours, theirs = (run_config(name, env_name).agent for name in (method, other))
    return {name: ours[name] for name in ours if ours[name] != theirs[name]}


@pytest.mark.parametrize('env_name', [CUBES[0], CUBES[3], ROBOMIMIC[1]])
def test_variants_differ_from_their_method_in_what_their_name_says(env_name):
    assert differences('DFP-notopk', 'DFP', env_name) == {'top_k': 0}
    fields = {'data_field': 'mean_shift', 'topk_field': 'mean_shift'}
    assert differences('DFP-MS', 'DFP', env_name).items() >= fields.items()
    assert differences('MVP-topK', 'MVP', env_name) == {'top_k': 4}
    assert differences('DFP-10', 'DFP', env_name) == {'num_qs': 10, 'q_agg': 'mean_std'}
    assert run_config('DFP-10', env_name).agent['rho'] == 0.5


# ---- every method on every task -----------------------------------------------------------------

TINY = {'batch_size': 4, 'actor_hidden_dims': (8,), 'critic_hidden_dims': (8,)}


def spec_of(env_name):
    """The spec of a task's transitions, from its suite's description."""
    task = find_task(env_name)
    found = task.suite.interface(task, **check_options(task))
    return make_spec(*(sum(x.size for x in parts) for parts in (found.observation, found.action)))


@pytest.mark.parametrize('env_name', dict.fromkeys(CUBES + ROBOMIMIC + OFFLINE))
def test_every_method_is_a_run_that_can_start_on_every_task(env_name, tmp_path):
    for method in METHODS:
        config = parse(['main.py', f'--method={method}', f'--env_name={env_name}'])
        assert config == run_config(method, env_name)
        dataclasses.replace(config, save_dir=str(tmp_path)).check()


@pytest.mark.parametrize('method', METHODS)
def test_every_method_has_an_update_and_an_action(method):
    """Traced alone; tests/test_golden_updates.py and others have their numbers."""
    settings = run_config(method, CUBES[0]).agent
    few = {name: min(settings[name], 3) for name in ('flow_steps', 'num_qs') if name in settings}
    config, spec = run_config(method, CUBES[0], TINY | few), spec_of(CUBES[0])
    rows = Rows.from_dataset(spec.zeros(2) | {'terminals': np.array([False, True])})

    def run(rng):
        agent = make_agent(describe(config, spec), seed=0)
        agent = agent.begin_online() if config.online_steps else agent
        batch = agent.sample_batch(Replay.create(rows, 50), rows, rng)
        agent, _ = agent.update(batch)
        return agent.exploration_policy().sample_actions(batch['observations'], agent.rng)

    chunks = jax.eval_shape(run, jax.random.PRNGKey(0))
    assert chunks.shape == (4, config.horizon_length, 5)


# ---- the commands in docs/reproducing.md --------------------------------------------------------


def documented_commands():
    """The command lines of the document's table of rows, as its shell would run them."""
    document = (ROOT / 'docs' / 'reproducing.md').read_text()
    section = document.partition("## The paper's rows\n")[2].partition('\n## Whole tables')[0]
    definitions = section.split('```\n')[1].replace('.venv/bin/python', 'echo')
    cells = [row.split('|')[3:5] for row in section.splitlines() if row.startswith('|')]
    commands = [command for row in cells for cell in row for command in re.findall('`(.*)`', cell)]
    script = '\n'.join([definitions, *commands])
    done = subprocess.run(['bash', '-c', script], capture_output=True, text=True, check=True)
    return [line.split() for line in done.stdout.splitlines()]


def test_the_document_has_a_command_for_every_row_on_every_task_of_its_suite():
    """96 cells of tables 1 and 2, 12 of table 3, 48 of table 4 and 5 of table 7."""
    commands = documented_commands()
    shared = ['main.py', '--flagfile=experiments/paper.flags', '--num_seeds=5']
    assert all(command[:3] == shared for command in commands)
    rows = [tuple(sorted(command[3:])) for command in commands]
    assert len(rows) == len(set(rows)) == 96 + 12 + 48 + 5

    def row(env_name, method, *more):
        return tuple(sorted([f'--env_name={env_name}', f'--method={method}', *more]))

    assert {row(env_name, method) for env_name in CUBES + ROBOMIMIC for method in ROWS} < set(rows)
    assert {row(env_name, 'DFP-offline', '--num_seeds=8') for env_name in OFFLINE} < set(rows)
    for name, values in (('topk_weight', '0.1 0.5 1 5'), ('top_k', '1 2 4 8')):
        for value in values.split():
            assert row(CUBES[-1], 'DFP', f'--agent.{name}={value}') in rows
