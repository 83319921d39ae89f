"""What an update costs, counted, not timed: the compiled program does the necessary work only."""

import pytest
from small_agents import ACTION_DIM, OBSERVATION_DIM, flops, make_batch

from agents import make_agent
from benchmarks.flops import update_flops
from experiments.methods import METHODS, method_settings


@pytest.mark.parametrize('method', METHODS)
def test_an_update_does_little_more_than_its_necessary_work(method):
    config, horizon = method_settings(method, 'cube-double-play-singletask-task2-v0')
    config.update(batch_size=32, actor_hidden_dims=(256, 256), critic_hidden_dims=(256, 256))
    description = {
        'agent': config.to_dict(),
        'observation_dim': OBSERVATION_DIM,
        'action_dim': ACTION_DIM,
        'horizon_length': horizon,
        'discount': 0.99,
    }
    agent = make_agent(description, seed=0).begin_online()
    batch = make_batch(size=32, horizon=horizon)
    ratio = flops(type(agent).update, agent, batch) / update_flops(agent)
    assert 0.9 < ratio < 1.25
