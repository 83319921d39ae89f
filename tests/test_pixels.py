"""A task that shows nothing but images: learnt, stored as bytes, resumed bit by bit, exported."""

import jax
import numpy as np
import pixel_suite
import pytest
from small_runs import At, assert_equal_outcomes, start, stop

from training import Interrupted, RunConfig, checkpoints, load_policy
from training.export import programs


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp('pixels') / 'column-data.npz'
    pixel_suite.write_data(path)
    return path


def make_config(data, save_dir, **changes):
    agent = {
        'data_field': 'mean_shift', 'encoder': 'impala_small', 'actor_hidden_dims': (64,),
        'critic_hidden_dims': (32,), 'batch_size': 32, 'num_samples': 1, 'num_particles': 2,
        'num_candidates': 4, 'top_k': 2, 'lr': 2e-3,
    }  # fmt: skip
    settings = {
        'env_name': pixel_suite.ENV_NAME, 'suite': 'pixel_suite:suite',
        'env_options': {'pixel_data': str(data)}, 'save_dir': str(save_dir), 'horizon_length': 1,
        'frame_stack': 2, 'p_aug': 0.02, 'offline_steps': 400, 'online_steps': 12,
        'start_training': 4, 'eval_interval': 0, 'eval_episodes': 20, 'eval_envs': 2,
        'log_interval': 0, 'buffer_size': 2000, 'compilation_cache_dir': None,
    }  # fmt: skip
    return RunConfig(agent=agent, **settings | changes)


@pytest.mark.slow
def test_a_task_is_learnt_from_pixels_alone_and_its_policy_exported(data, tmp_path):
    result = start(make_config(data, tmp_path, online_steps=0))
    assert result.scores[0]['success'] >= 0.7
    program = programs(load_policy(result.directory))['policy']
    assert program.inputs['observation'] == ('b', 12, 12, 2)
    assert program.dtypes['observation'] == 'uint8'
    images = np.zeros((3, 12, 12, 2), np.uint8)
    noise = np.asarray(jax.random.normal(jax.random.PRNGKey(0), (3, 1, 1)))
    (chunk,) = jax.jit(program.function)(images, noise)
    assert chunk.shape == (3, 1, 1)


@pytest.mark.slow
def test_a_run_with_images_stores_each_state_once_as_bytes_and_resumes_bit_by_bit(data, tmp_path):
    short = {'offline_steps': 4, 'log_interval': 5, 'save_interval': 4, 'eval_episodes': 2}
    whole = start(make_config(data, tmp_path / 'a', **short))
    _, arrays = checkpoints.load(checkpoints.find(whole.directory), 'replays')
    stored = arrays['replays/rows/fields/observations']
    assert (stored.dtype, stored.shape[2:]) == (np.uint8, (12, 12, 1))
    assert 'replays/rows/fields/next_observations' not in arrays
    again = make_config(data, tmp_path / 'b', **short)
    with pytest.raises(Interrupted):
        start(again, At({('online', 'online', 10): stop}))
    assert_equal_outcomes(start(again).directory, whole.directory)
