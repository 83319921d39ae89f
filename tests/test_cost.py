"""What an update costs, counted, not timed: as it is written, it does the necessary work only."""

import pytest
from small_agents import ACTION_DIM, OBSERVATION_DIM, flops, make_batch

from agents import make_agent
from benchmarks.common import CUBE_DOUBLE, describe
from benchmarks.flops import update_flops
from experiments.methods import METHODS, run_config


@pytest.mark.parametrize('method', METHODS)
def test_an_update_does_little_more_than_its_necessary_work(method):
    smaller = {'batch_size': 32, 'actor_hidden_dims': (256,) * 2, 'critic_hidden_dims': (256,) * 2}
    config = run_config(method, CUBE_DOUBLE, smaller)
    agent = make_agent(describe(config, OBSERVATION_DIM, ACTION_DIM), seed=0)
    agent = agent.begin_online() if config.online_steps else agent
    batch = make_batch(size=32, horizon=config.horizon_length)
    ratio = flops(type(agent).update, agent, batch) / update_flops(agent)
    assert 0.9 < ratio < 1.25
