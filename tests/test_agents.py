"""Promises that every agent keeps."""

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_agents import (
    ACTION_DIM,
    HORIZON,
    LEARNS_FROM_CANDIDATES,
    METHODS,
    Asked,
    FixedCritic,
    compiled,
    cut,
    describe,
    equal,
    make,
    make_batch,
    one_step,
    train_on,
    with_critic,
)

from agents import dfp, make_agent
from agents.base import freeze
from utils.keys import key_for

RNG = jax.random.PRNGKey(0)


# ---- every method -------------------------------------------------------------------------------

OWN = {
    'bfn': {'lr': 1e-3},
    'driftql': {'alpha': 1.0, 'num_particles': 8},
    'fmq': {'eta': 1.0},
    'fql': {'alpha': 0.3},
    'qam': {'inv_temp': 20.0, 'flow_steps': 6},
}


def make_of_pairs(method, seed=0):
    """An agent with one state, whose chunks are two numbers."""
    own = {'ema_rate': 0.02, 'top_k': 2} if method in LEARNS_FROM_CANDIDATES else {}
    own |= {'lr': 3e-3, 'num_samples': 16} | OWN.get(method, {})
    return make(method, seed, 2, observation_dim=1, action_dim=1, **own)


@pytest.fixture(scope='module', params=METHODS)
def agent(request):
    """An agent of each method in its online phase, whose critic likes (0.5, 0.5)."""
    return with_critic(make_of_pairs(request.param), FixedCritic()).begin_online()


def uniform_batch(seed, size=64):
    """Data all over [-1, 1]², at one state."""
    actions = np.random.default_rng(seed).uniform(-1, 1, (size, 2, 1)).astype(np.float32)
    valid = jnp.ones((size, 2))
    return one_step(jnp.ones((size, 1)), actions[:, 0]) | {'actions': actions, 'valid': valid}


def propose_and_play(agent):
    """16 proposals `[500, 16, 2]` for each of many states, and what is played there `[500, 2]`."""
    observations = np.ones((5, 100, 1), np.float32)
    proposals = compiled(agent, 'propose', agent.params, observations, 16, RNG)
    actions = agent.sample_actions(observations, RNG)
    assert actions.shape == (5, 100, 2, 1)
    return np.reshape(proposals, (500, 16, 2)), np.reshape(actions, (500, 2))


def from_best(chunks):
    return np.linalg.norm(chunks - 0.5, axis=-1)


def test_an_agent_plays_the_best_of_its_proposals(agent):
    proposals, played = propose_and_play(agent)
    best = from_best(proposals).argmin(axis=1)
    assert len(np.unique(best)) > 1
    np.testing.assert_allclose(played, proposals[np.arange(500), best], atol=1e-5)
    assert np.abs(proposals).max() <= 1


def test_what_follows_the_end_of_an_episode_changes_nothing_and_what_precedes_it_may_teach(agent):
    """The agents are equal bit for bit. DFP, DriftQL and QAM clone whole chunks alone."""
    batch = cut(uniform_batch(0), [2, 5], length=1)

    def learns_from(action, value):
        other = batch | {'actions': batch['actions'].copy()}
        other['actions'][[2, 5], action] = value
        return not equal(agent.update(batch)[0].params, agent.update(other)[0].params)

    assert not learns_from(1, np.nan)
    assert learns_from(0, 0.3) is (agent.config.agent_name not in ('dfp', 'driftql', 'qam'))


def test_playing_moves_to_what_the_critic_likes(agent):
    batches = [uniform_batch(seed) for seed in range(20)]
    for i in range(400):
        agent, _ = agent.update(batches[i % 20])
    proposals, played = propose_and_play(agent)
    of_data = from_best(batches[0]['actions'][..., 0]).mean()
    assert from_best(played).mean() < 0.4 * of_data
    closer = from_best(proposals).mean() < 0.85 * of_data
    assert closer is not (agent.config.agent_name == 'bfn')  # nothing but the choice improves it


@pytest.mark.parametrize('method', METHODS)
def test_the_seed_decides_all_that_is_trained_and_nothing_else_has_optimiser_state(method):
    agent, again, other = (make_of_pairs(method, seed) for seed in (5, 5, 6))
    assert equal(agent, again)
    assert not equal(agent.params, other.params)
    assert not equal(agent.params['critic'], other.params['critic'])
    np.testing.assert_array_equal(agent.rng, key_for(5, 'batches'))
    count = lambda tree: sum(x.size for x in jax.tree.leaves(tree))  # noqa: E731
    assert count(agent.opt_state) == 2 * count(agent.params) + 1


# ---- what they share ----------------------------------------------------------------------------


def dfp_agent():
    return make('dfp', tau=0.3)


def test_a_policy_acts_like_its_agent_and_holds_nothing_but_parameters():
    agent, observations = dfp_agent(), make_batch()['observations']
    for policy in (agent.policy(), agent.exploration_policy()):
        actions = policy.sample_actions(observations, RNG)
        assert equal(actions, agent.sample_actions(observations, RNG))
        assert len(jax.tree.leaves(policy)) == len(jax.tree.leaves(agent.params))


def test_one_proposal_is_plain_sampling_and_asks_no_critic():
    agent = make('dfp', num_samples=1)
    observations = make_batch()['observations']
    proposal = compiled(agent, 'propose', agent.params, observations, 1, RNG)[:, 0]
    blind = agent.replace(params=agent.params | {'critic': None})
    actions = blind.sample_actions(observations, RNG)
    np.testing.assert_allclose(actions.reshape(16, -1), proposal, atol=1e-5)


def test_evaluation_and_targets_may_choose_among_other_numbers_of_proposals_than_play():
    """With one for the targets it is a' ~ π, as the paper has it."""
    agent, critic = make('dfp', num_samples=3, eval_num_samples=9, target_num_samples=7), Asked()
    agent, batch = with_critic(agent, critic), make_batch()
    for policy in (agent.policy(), agent.exploration_policy()):
        jax.eval_shape(policy.sample_actions, batch['observations'], RNG)
    jax.eval_shape(agent.td_targets, batch, RNG)
    assert critic.shapes == [(16, 9, 8), (16, 3, 8), (16, 7, 8), (16, 8)]


def test_td_target_is_the_discounted_target_value_of_what_the_agent_would_do():
    agent, batch = dfp_agent(), make_batch()
    moved = jax.tree.map(lambda x: x + 0.1, agent.slow['critic'])
    agent = agent.replace(slow=agent.slow | {'critic': moved})
    chunks = compiled(agent, 'best_of_n', batch['next_observations'], RNG)
    value = jax.jit(agent.modules['critic'].apply)
    values = value(agent.slow['critic'], batch['next_observations'], chunks).mean(0)
    expected = batch['rewards'] + 0.9**HORIZON * batch['masks'] * values
    targets = compiled(agent, 'td_targets', batch, RNG)
    np.testing.assert_allclose(targets, expected, rtol=1e-5)


def test_critic_learns_from_full_chunks_only_in_a_mean_over_the_whole_batch():
    agent, batch, targets = dfp_agent(), make_batch(), jnp.arange(16.0)
    values = jax.jit(agent.modules['critic'].apply)(
        agent.params['critic'], batch['observations'], batch['actions'].reshape(16, -1)
    )
    errors = ((values - targets) ** 2).mean(0)
    batch = cut(batch, [0, 3], length=3)
    batch['actions'] = batch['actions'].at[3, 3:].set(jnp.nan)
    loss, _ = compiled(agent, 'critic_loss', agent.params, batch, targets)
    np.testing.assert_allclose(loss, (errors.sum() - errors[0] - errors[3]) / 16, rtol=1e-5)


def test_an_update_is_pure_and_the_target_critic_follows_the_critic_after_its_step():
    agent, batch = dfp_agent(), make_batch()
    before = jax.tree.map(jnp.copy, agent)
    new, again = agent.update(batch)[0], agent.update(batch)[0]
    assert equal(agent, before)
    assert equal(new, again)
    assert not equal(new.params, agent.params)
    assert not equal(new.rng, agent.rng)
    expected = jax.tree.map(
        lambda q, target: 0.3 * q + 0.7 * target, new.params['critic'], agent.slow['critic']
    )
    close = partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-7)
    jax.tree.map(close, new.slow['critic'], expected)


def test_without_action_chunking_the_horizon_is_only_that_of_the_returns():
    agent, batch = make('dfp', action_chunking=False), make_batch()
    actions = jax.eval_shape(agent.sample_actions, batch['observations'], RNG)
    assert actions.shape == (16, 1, ACTION_DIM)
    chunks, valid = agent.masked_chunks(cut(batch, [2], length=1))
    np.testing.assert_array_equal(chunks, batch['actions'][:, 0])
    assert valid.shape == (16, 1)
    targets = compiled(with_critic(agent, Asked()), 'td_targets', batch, RNG)
    expected = batch['rewards'] + 0.9**HORIZON * batch['masks']
    np.testing.assert_allclose(targets, expected, rtol=1e-5)


def mixture(rng, size=192):
    """Two states, two modes each; the left one of the first state is rare."""
    state_rng, mode_rng, width_rng = jax.random.split(rng, 3)
    first = jax.random.bernoulli(state_rng, shape=(size, 1))
    right = jax.random.uniform(mode_rng, (size, 1)) < jnp.where(first, 0.75, 0.5)
    x = jnp.where(right, 0.5, -0.5)
    modes = jnp.concatenate([x, jnp.where(first, x, -x)], axis=1)
    observations = jnp.where(first, 1.0, -1.0)
    return one_step(observations, modes + 0.05 * jax.random.normal(width_rng, (size, 2)))


def test_a_policy_alone_learns_all_modes_of_the_data_at_each_state():
    """With T = 0.1 alone and one positive per state, modes this far apart do not see each other,
    and a policy in two dimensions keeps one of them."""
    agent = make(
        'dfp', observation_dim=1, horizon=1, num_samples=1, lr=1.5e-2, actor_hidden_dims=(64, 64),
        temperatures=(0.5,),
    )  # fmt: skip
    agent = with_critic(agent, FixedCritic(scale=0.0))
    agent = train_on(agent, mixture, 300, average=100)
    for state, masses in ((1.0, (0.75, 0.25)), (-1.0, (0.5, 0.5))):
        actions = compiled(agent, 'propose', agent.params, np.full(1, state, np.float32), 2000, RNG)
        modes = np.array([[0.5, 0.5 * state], [-0.5, -0.5 * state]])
        distances = np.linalg.norm(np.asarray(actions)[:, None] - modes, axis=-1)
        found = (distances < 0.25).mean(axis=0)
        assert found.sum() > 0.7, f'{1 - found.sum():.2f} of the actions are in no mode'
        np.testing.assert_allclose(found / found.sum(), masses, atol=0.1)


def chain(rng, horizon, size=64):
    """States 0…9, each action moves one on with reward −1, the tenth ends the episode."""
    state_rng, action_rng = jax.random.split(rng)
    state = jax.random.randint(state_rng, (size,), 0, 10)
    steps = jnp.minimum(horizon, 10 - state)
    return {
        'observations': jnp.eye(10)[state],
        'actions': jax.random.uniform(action_rng, (size, horizon, 1), minval=-1),
        'rewards': -(1 - 0.9**steps) / (1 - 0.9),
        'masks': (state + steps < 10).astype(float),
        'next_observations': jnp.eye(10)[jnp.minimum(state + steps, 9)],
        'valid': jnp.ones((size, horizon)),
    }


def test_critic_learns_the_values_of_a_chain_it_can_compute_by_hand():
    """Q(s) = −Σ γ^k over the steps left."""
    agent = make(
        'dfp', observation_dim=10, action_dim=1, horizon=5, num_samples=2, lr=1e-2, tau=0.1,
        critic_hidden_dims=(64, 64),
    )  # fmt: skip
    agent = train_on(agent, partial(chain, horizon=5), 300)
    apply = jax.jit(agent.modules['critic'].apply)
    values = apply(agent.params['critic'], np.eye(10), np.zeros((10, 5)))
    expected = -(1 - 0.9 ** np.arange(10, 0, -1)) / (1 - 0.9)
    np.testing.assert_allclose(np.mean(values, axis=0), expected, atol=0.2)


# ---- shapes -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('name', 'shape'),
    [('observations', (16, 4)), ('actions', (16, 3, 2)), ('rewards', (16, 1)), ('valid', (16,))],
)
def test_a_batch_with_a_wrong_or_missing_array_is_refused_by_name(name, shape):
    agent, batch = make('dfp'), make_batch()
    with pytest.raises(ValueError, match=f'^{name} has shape'):
        agent.update(batch | {name: jnp.ones(shape)})
    del batch[name]
    with pytest.raises(ValueError, match=f'^{name} is missing'):
        agent.update(batch)


# ---- settings that cannot work ------------------------------------------------------------------


@pytest.mark.parametrize(
    ('method', 'changes'),
    [
        ('dfp', {'temperatures': ()}),
        ('dfp', {'temperatures': ('a',)}),
        ('dfp', {'temperatures': (0.1, -1.0)}),
        ('dfp', {'num_particles': 0}),
        ('dfp', {'num_samples': 0}),
        ('dfp', {'eval_num_samples': -1}),
        ('dfp', {'q_agg': 'median'}),
        ('dfp', {'ema_rate': 0.0}),
        ('dfp', {'tau': 2.0}),
        ('bfn', {'flow_steps': 0}),
        ('fql', {'alpha': -1.0}),
        ('mvp', {'time_std': -1.0}),
        ('fmq', {'eta': -1.0}),
        ('fmq', {'anneal_steps': 5}),
        ('dfp', {'edit_scale': -0.1}),
        ('dfp', {'refine_step': -0.1}),
    ],
)
def test_settings_that_cannot_work_are_named(method, changes):
    ((name, value),) = changes.items()
    with pytest.raises(ValueError, match=rf'--agent.{name}={re.escape(str(value))}: '):
        make(method, **changes)


@pytest.mark.parametrize('changes', [{'top_k': 0}, {'top_k': 4, 'topk_phases': 'offline'}])
def test_a_policy_with_nothing_to_learn_from_online_is_refused(changes):
    with pytest.raises(ValueError, match='leaves nothing to learn online'):
        make('mvp', data_weight=0, **changes)


def test_settings_that_an_older_description_lacks_are_the_defaults():
    settings = dfp.get_config().to_dict() | {'top_k': 2, 'actor_hidden_dims': [8]}
    del settings['eval_num_samples']
    config = make_agent(describe(settings), seed=0).config
    assert (config.eval_num_samples, config.top_k, config.actor_hidden_dims) == (0, 2, (8,))


def test_frozen_settings_compare_by_value_and_are_of_one_class():
    """Or jit would compile again for each agent."""
    one, other = freeze(dfp.get_config()), freeze(dfp.get_config())
    assert one == other
    assert hash(one) == hash(other)
    assert type(one) is type(other)


# ---- diagnosis ----------------------------------------------------------------------------------


def test_a_diagnosis_values_data_samples_and_the_best_of_them():
    agent, batch = dfp_agent(), cut(make_batch(), [0, 3], 2)
    found, observations = compiled(agent, 'diagnose', batch, RNG), batch['observations']
    samples = compiled(agent, 'propose', agent.params, observations, 16, RNG)
    values = compiled(agent, 'score', observations, samples)
    data = compiled(agent, 'score', observations, agent.masked_chunks(batch)[0][:, None])
    expected = {
        'policy/q_data': np.delete(np.asarray(data)[:, 0], [0, 3]).mean(),
        'policy/q_samples': values.mean(),
        'policy/q_best': values.max(axis=1).mean(),
        'policy/diversity': np.sqrt(np.asarray(samples).var(axis=1, ddof=1).mean()),
    }
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-5, atol=1e-6, err_msg=name)


def test_a_method_that_plays_its_only_sample_has_a_diversity_too():
    agent = make('fql', num_samples=1)
    found = compiled(agent, 'diagnose', make_batch(), RNG)
    assert found['policy/q_best'] == found['policy/q_samples']
    assert np.isfinite(found['policy/diversity'])
    assert found['policy/diversity'] > 0
