"""A run's keys: one for each purpose."""

import jax
import numpy as np
import pytest
from jax.experimental.key_reuse._core import check_key_reuse
from small_agents import HORIZON, METHODS, OBSERVATION_DIM, describe, make
from test_updates import make_data

from training import state as states
from training.updates import _update
from utils.keys import key_for
from utils.replay import Replay


def test_keys_stay_the_same_so_that_published_runs_can_be_repeated():
    purposes = 'parameters', 'batches', 'exploration', 'evaluation', 'restart'
    for number, purpose in enumerate(purposes):
        expected = jax.random.fold_in(jax.random.PRNGKey(7), number)
        np.testing.assert_array_equal(key_for(7, purpose), expected)


def two_updates_and_an_action(method, phase):
    """A function of a key."""
    agent, data = make(method), make_data()
    agent = agent.begin_online() if phase == 'online' else agent
    replay = Replay.create(data, 50)

    def run(key):
        new, _ = _update(agent.replace(rng=key), replay, data)
        newer, _ = _update(new, replay, data)
        return newer.sample_actions(np.zeros(OBSERVATION_DIM, np.float32), newer.rng)

    return run


@pytest.mark.parametrize(
    ('method', 'phase'),
    [*((method, 'online') for method in METHODS), ('dfp', 'offline'), ('fmq', 'offline')],
)
def test_no_update_and_no_action_uses_a_key_twice(method, phase):
    """JAX's own check, which follows typed keys through a program without running it."""
    run, key = two_updates_and_an_action(method, phase), jax.random.key(0)
    check_key_reuse(run, key)
    if method == 'bfn':
        with pytest.raises(jax.errors.KeyReuseError):
            check_key_reuse(lambda key: (run(key), run(key)), key)


def test_runs_that_start_from_one_agent_draw_on_their_own():
    """They equal neither other seeds' draws, nor past or future draws of the agent's own run."""
    agent, data = make('bfn'), make_data()
    description = describe(agent.config._asdict(), HORIZON, 0.9)
    used, key = [], agent.rng
    for _ in range(5):
        used += [key, *jax.random.split(key, 3)]
        key = jax.random.split(key)[0]
    own = [
        states.with_agents(states.create(description, [seed], [data], 50), [agent], [seed])
        .seeds[0].agents.rng[0]
        for seed in (0, 1)
    ]  # fmt: skip
    own, used = ({tuple(np.asarray(key).tolist()) for key in keys} for keys in (own, used))
    assert len(own) == 2
    assert not own & used
