"""A run's settings: what is refused, how they are written down, what tells two runs apart."""

import dataclasses
import json

import pytest
from small_runs import make_config

from agents import dfp
from experiments.methods import run_config
from training import RunConfig
from utils.errors import UserError

ENV_NAME = 'cube-double-play-singletask-task2-v0'


def with_agent(**changes):
    agent = dfp.get_config().to_dict() | changes
    return {'agent': agent}


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        ({'suite': 'no_such_module:suite'}, 'suite=no_such_module:suite: importing no_such'),
        ({'env_options': {'colour': 'red'}}, '--colour=red: not an option of suite ogbench'),
        ({'horizon_length': 0}, '--horizon_length=0: must be at least 1'),
        ({'offline_steps': 0, 'online_steps': 0}, 'nothing to do'),
        ({'worker_timeout': 1e7}, '--worker_timeout=10000000.0: must be at most 86400'),
        ({'seed': 2**32}, f'--seed={2**32}: must be at most {2**32 - 1}'),
        ({'buffer_size': 2**31}, f'--buffer_size={2**31}: must be at most 1000000000'),
        ({'restore_path': '/no/such/run'}, '--restore_path=/no/such/run: no checkpoint there'),
        ({'dataset_proportion': 0.0}, '--dataset_proportion=0.0: must be above 0'),
        ({'offline_batch_ratio': float('nan')}, '--offline_batch_ratio=nan: must be at least 0'),
        ({'dataset_source': 'guess'}, '--dataset_source=guess: use auto or download or collect'),
        (with_agent(top_k=20), '--agent.top_k=20: must be at least 0 and at most 16'),
        (with_agent(no_such_key=1), '--agent.no_such_key: not a setting of dfp; it has .*lr'),
        (with_agent(top_k='four'), '--agent.top_k=four: must be of type int'),
        ({'agent': 'sac'}, '--agent=sac: no such file; .*agents/bfn.py'),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else '',
)
def test_what_cannot_work_is_refused_before_anything_starts(settings, message, tmp_path):
    with pytest.raises(UserError, match=message):
        RunConfig(**({'env_name': ENV_NAME, 'save_dir': str(tmp_path)} | settings)).check()
    assert not list(tmp_path.iterdir())


def test_settings_of_an_agent_that_are_not_given_are_the_defaults():
    assert RunConfig(agent={'top_k': 2}) == RunConfig(**with_agent(top_k=2))
    assert RunConfig(agent={'alpha': 3}, agent_file='fql').agent['alpha'] == 3.0
    assert dataclasses.replace(RunConfig(agent='dfp'), agent='fql') == RunConfig(agent='fql')


def test_a_config_survives_json(tmp_path):
    config = make_config(tmp_path, num_seeds=3, discount=0.9)
    again = RunConfig.from_json(json.loads(json.dumps(config.to_json())))
    assert again == config
    assert again.identity == config.identity
    assert isinstance(again.agent['temperatures'], tuple)
    with pytest.raises(ValueError, match='colour: not a setting of a run'):
        RunConfig.from_json({'colour': 'red'})


def changed(config, name):
    """Returns another value for a setting."""
    other = {
        'env_name': 'cube-double-play-singletask-task3-v0', 'method': 'FQL', 'suite': 'ogbench',
        'dataset_source': 'download', 'wandb_mode': 'offline',
        'restore_path': 'x', 'compilation_cache_dir': '', 'overlap': False,
    }  # fmt: skip
    value = getattr(config, name)
    return other.get(name, f'{value}x' if isinstance(value, str) else (value or 0) + 1)


def test_the_identity_is_a_hash_of_what_decides_the_result():
    config = RunConfig(env_name=ENV_NAME)
    irrelevant = {
        'accept_code', 'collect_episodes', 'method', 'seed', 'num_seeds', 'save_dir', 'run_group',
        'save_minutes', 'save_interval', 'keep_checkpoints', 'compilation_cache_dir', 'wandb_mode',
        'wandb_project', 'wandb_entity', 'wandb_tags', 'eval_envs', 'worker_timeout',
        'video_episodes', 'video_frame_skip', 'online_steps',
    }  # fmt: skip
    for field in dataclasses.fields(RunConfig):
        if field.name in ('agent', 'agent_file', 'env_options'):
            continue
        other = dataclasses.replace(config, **{field.name: changed(config, field.name)})
        assert (other.identity == config.identity) == (field.name in irrelevant), field.name
    assert dataclasses.replace(config, **with_agent(tau=0.1)).identity != config.identity
    collected = dataclasses.replace(config, dataset_source='collect')
    few = dataclasses.replace(collected, collect_episodes=3)
    assert len({config.identity, collected.identity, few.identity}) == 3


def test_the_steps_that_end_a_run_are_its_length_and_not_part_of_its_identity():
    def identity(offline, online):
        return RunConfig(env_name=ENV_NAME, offline_steps=offline, online_steps=online).identity

    assert identity(10, 20) == identity(10, 30) != identity(11, 20)
    assert identity(10, 0) == identity(20, 0) not in (identity(10, 20), identity(0, 20))


def test_options_that_only_say_where_files_lie_or_what_is_default_anyway_change_no_identity():
    identities = [
        RunConfig(env_name=ENV_NAME, env_options=options).identity
        for options in (
            {},
            {'ogbench_dataset_dir': '/data'},
            {'sparse': False, 'success_timing': 'pre'},
            {'sparse': True},
        )
    ]
    assert identities[0] == identities[1] == identities[2] != identities[3]


def test_a_run_lies_where_method_seed_and_identity_say():
    config = run_config('QC-FQL', ENV_NAME, seed=3, save_dir='exp', run_group='paper')
    folder = config.directory
    assert str(folder.parent) == f'exp/paper/{ENV_NAME}'
    assert folder.name == f'QC-FQL-sd003-{config.identity}'
    several = dataclasses.replace(config, num_seeds=5)
    assert several.directory.name == f'QC-FQL-sd003-007-{config.identity}'
    assert RunConfig(env_name=ENV_NAME).directory.name.startswith('dfp-sd000-')
