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
    OBSERVATION_DIM,
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

every_method = pytest.mark.parametrize('method', METHODS)


# ---- the shared agent -------------------------------------------------------------------------


@every_method
@pytest.mark.parametrize('leading', [(), (2, 3)])
def test_actions_have_the_shape_of_a_chunk_for_any_leading_shape(method, leading):
    observations = jnp.ones((*leading, OBSERVATION_DIM))
    actions = make(method).sample_actions(observations, jax.random.PRNGKey(0))
    assert actions.shape == (*leading, HORIZON, ACTION_DIM)
    assert (jnp.abs(actions) <= 1).all()


@pytest.mark.parametrize(
    ('method', 'q_agg', 'leading'),
    [*((m, 'mean', (16,)) for m in METHODS), ('dfp', 'min', (2, 8)), ('dfp', 'mean_std', (16,))],
)
def test_acting_picks_the_best_of_the_proposals(method, q_agg, leading):
    agent = make(method, q_agg=q_agg, rank_agg='', num_samples=7)
    agent = agent.replace(
        slow=agent.slow | {'critic': jax.tree.map(jnp.negative, agent.slow['critic'])}
    )
    observations = make_batch()['observations'].reshape(*leading, OBSERVATION_DIM)
    rng = jax.random.PRNGKey(3)
    proposals = compiled(agent, 'propose', agent.params, observations, 7, rng)
    value = jax.jit(agent.modules['critic'].apply)
    values = np.stack(
        [value(agent.params['critic'], observations, proposals[..., i, :]) for i in range(7)],
        axis=-1,
    )
    values = {
        'mean': values.mean(0), 'min': values.min(0),
        'mean_std': values.mean(0) - 0.5 * values.std(0),
    }[q_agg]  # fmt: skip
    best = values.argmax(-1)[..., None, None]
    expected = np.take_along_axis(np.asarray(proposals), best, axis=-2)
    assert len(np.unique(best)) > 1
    actions = agent.sample_actions(observations, rng).reshape(*leading, -1)
    np.testing.assert_allclose(actions, expected[..., 0, :], atol=1e-5)


def test_one_proposal_is_plain_sampling_and_asks_no_critic():
    agent = make('dfp', num_samples=1)
    observations = jnp.ones((5, OBSERVATION_DIM))
    rng = jax.random.PRNGKey(0)
    proposal = compiled(agent, 'propose', agent.params, observations, 1, rng)[:, 0]
    blind = agent.replace(params=agent.params | {'critic': None})
    actions = blind.sample_actions(observations, rng)
    np.testing.assert_allclose(actions.reshape(5, -1), proposal, atol=1e-5)


@every_method
def test_an_invalid_tail_changes_nothing(method):
    """Whatever stands after the end of an episode: the agents are equal bit for bit."""
    batch = cut(make_batch(), [2, 5], length=3)
    other = batch | {'actions': batch['actions'].at[jnp.asarray([2, 5]), 3:].set(jnp.nan)}
    agent = make(method).begin_online()
    assert equal(agent.update(batch)[0].params, agent.update(other)[0].params)


@pytest.mark.parametrize('method', ['bfn', 'dfp', 'fmq', 'fql', 'mvp'])
def test_a_valid_prefix_teaches_all_policies_but_dfps(method):
    agent, rng = make(method), jax.random.PRNGKey(0)
    batch = cut(make_batch(), [2, 5], length=3)
    other = batch | {'actions': batch['actions'].at[2, 0].add(0.3)}
    grad = jax.jit(jax.grad(lambda p, batch: agent.actor_loss(p, batch, rng)[0]))
    same = equal(grad(agent.params, batch), grad(agent.params, other))
    assert same is (method == 'dfp')


def mixture(rng, size=192):
    """Two states, two modes each; the left one of the first state is rare."""
    state_rng, mode_rng, width_rng = jax.random.split(rng, 3)
    first = jax.random.bernoulli(state_rng, shape=(size, 1))
    right = jax.random.uniform(mode_rng, (size, 1)) < jnp.where(first, 0.75, 0.5)
    x = jnp.where(right, 0.5, -0.5)
    modes = jnp.concatenate([x, jnp.where(first, x, -x)], axis=1)
    observations = jnp.where(first, 1.0, -1.0)
    return one_step(observations, modes + 0.05 * jax.random.normal(width_rng, (size, 2)))


@pytest.mark.parametrize(
    ('method', 'changes'),
    [
        ('bfn', {'flow_steps': 10}),
        # With T = 0.1 alone and one positive per state, modes this far apart do not see each
        # other, and a policy in two dimensions keeps one of them.
        ('dfp', {'temperatures': (0.5,)}),
        ('fql', {'flow_steps': 10, 'alpha': 100.0}),
        ('mvp', {'top_k': 0}),
    ],
)
def test_a_policy_alone_learns_all_modes_of_the_data_at_each_state(method, changes):
    agent = make(
        method, observation_dim=1, horizon=1, num_samples=1, lr=1.5e-2, actor_hidden_dims=(64, 64),
        **changes,
    )  # fmt: skip
    agent = with_critic(agent, FixedCritic(scale=0.0))
    agent = train_on(agent, mixture, 500, average=200)
    for state, masses in ((1.0, (0.75, 0.25)), (-1.0, (0.5, 0.5))):
        rng = jax.random.PRNGKey(1)
        actions = compiled(agent, 'propose', agent.params, np.full(1, state, np.float32), 2000, rng)
        modes = np.array([[0.5, 0.5 * state], [-0.5, -0.5 * state]])
        distances = np.linalg.norm(np.asarray(actions)[:, None] - modes, axis=-1)
        found = (distances < 0.25).mean(axis=0)
        assert found.sum() > 0.7, f'{1 - found.sum():.2f} of the actions are in no mode'
        np.testing.assert_allclose(found / found.sum(), masses, atol=0.1)


@every_method
def test_acting_moves_to_what_a_fixed_critic_likes(method):
    """Data all over [-1, 1]², a critic that likes (0.5, 0.5); the agent plays and learns on."""

    def sample(rng):
        return one_step(jnp.ones((128, 1)), jax.random.uniform(rng, (128, 2), minval=-1))

    own = {
        'driftql': {'alpha': 1.0},
        'fmq': {'eta': 1.0},
        'fql': {'alpha': 0.3},
        'qam': {'inv_temp': 20.0, 'flow_steps': 10},
    }
    changes = own.get(method, {})
    changes |= {'ema_rate': 0.02, 'top_k': 2} if method in LEARNS_FROM_CANDIDATES else {}
    lr = 1e-3 if method == 'bfn' else 3e-3
    agent = make(method, observation_dim=1, horizon=1, lr=lr, **changes)
    agent = with_critic(agent, FixedCritic())
    agent = train_on(agent.begin_online(), sample, 400)
    rng, observations = jax.random.PRNGKey(1), jnp.ones((1000, 1))

    def distance(actions):
        return np.linalg.norm(np.asarray(actions) - 0.5, axis=-1).mean()

    of_data = distance(sample(rng)['actions'][:, 0])
    proposals = compiled(agent, 'propose', agent.params, jnp.ones(1), 1000, rng)
    of_policy = distance(proposals)
    assert distance(compiled(agent, 'best_of_n', observations, rng)) < 0.4 * of_data
    if method == 'bfn':  # nothing but the choice improves it
        assert of_policy > 0.85 * of_data
    else:
        assert of_policy < 0.85 * of_data


def test_td_target_is_the_discounted_target_value_of_what_the_agent_would_do():
    agent = make('dfp')
    agent = agent.replace(
        slow=agent.slow | {'critic': jax.tree.map(lambda x: x + 0.1, agent.slow['critic'])}
    )
    batch, rng = make_batch(), jax.random.PRNGKey(1)
    chunks = compiled(agent, 'best_of_n', batch['next_observations'], rng)
    value = jax.jit(agent.modules['critic'].apply)
    values = value(agent.slow['critic'], batch['next_observations'], chunks).mean(0)
    expected = batch['rewards'] + 0.9**HORIZON * batch['masks'] * values
    targets = compiled(agent, 'td_targets', batch, rng)
    np.testing.assert_allclose(targets, expected, rtol=1e-5)


def test_critic_learns_from_full_chunks_only_in_a_mean_over_the_whole_batch():
    agent = make('dfp')
    batch, targets = make_batch(), jnp.arange(16.0)
    values = jax.jit(agent.modules['critic'].apply)(
        agent.params['critic'], batch['observations'], batch['actions'].reshape(16, -1)
    )
    errors = ((values - targets) ** 2).mean(0)
    batch = cut(batch, [0, 3], length=3)
    loss, _ = compiled(agent, 'critic_loss', agent.params, batch, targets)
    np.testing.assert_allclose(loss, (errors.sum() - errors[0] - errors[3]) / 16, rtol=1e-5)


def test_the_actors_loss_does_not_move_the_critic_nor_the_critics_loss_the_actor():
    agent, batch = make('fql', alpha=1.0), make_batch()
    params = agent.update(batch)[0].params
    other_actor = make('fql', alpha=3.0).update(batch)[0].params
    other_critic = agent.update(batch | {'rewards': batch['rewards'][::-1]})[0].params
    assert not equal(params['actor'], other_actor['actor'])
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6),
                 params['critic'], other_actor['critic'])  # fmt: skip
    assert not equal(params['critic'], other_critic['critic'])
    assert equal(params['actor'], other_critic['actor'])


def test_target_critic_follows_the_critic_after_its_step():
    agent = make('dfp', tau=0.3)
    new, _ = agent.update(make_batch())
    expected = jax.tree.map(
        lambda q, target: 0.3 * q + 0.7 * target, new.params['critic'], agent.slow['critic']
    )
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-7),
                 new.slow['critic'], expected)  # fmt: skip


@every_method
def test_the_seed_decides_all_that_is_trained_and_nothing_else_has_optimiser_state(method):
    agent, again, other = make(method, seed=5), make(method, seed=5), make(method, seed=6)
    assert equal(agent, again)
    assert not equal(agent.params, other.params)
    assert not equal(agent.params['critic'], other.params['critic'])
    np.testing.assert_array_equal(agent.rng, key_for(5, 'batches'))
    count = lambda tree: sum(x.size for x in jax.tree.leaves(tree))  # noqa: E731
    assert count(agent.opt_state) == 2 * count(agent.params) + 1


@every_method
def test_a_policy_acts_like_its_agent_and_holds_nothing_but_parameters(method):
    agent, rng = make(method), jax.random.PRNGKey(0)
    observations = make_batch()['observations']
    for policy in (agent.policy(), agent.exploration_policy()):
        actions = policy.sample_actions(observations, rng)
        assert equal(actions, agent.sample_actions(observations, rng))
        assert len(jax.tree.leaves(policy)) == len(jax.tree.leaves(agent.params))


def test_evaluation_and_targets_may_choose_among_other_numbers_of_proposals_than_play():
    """With one for the targets it is a' ~ π, as the paper has it."""
    batch, rng = make_batch(), jax.random.PRNGKey(0)
    one, three, nine = (make('dfp', num_samples=num) for num in (1, 3, 9))
    act = lambda policy: policy.sample_actions(batch['observations'], rng)  # noqa: E731
    targets = lambda agent: compiled(agent, 'td_targets', batch, rng)  # noqa: E731
    agent = make('dfp', num_samples=3, eval_num_samples=9, target_num_samples=1)
    assert equal(act(agent.policy()), act(nine))
    assert equal(act(agent.exploration_policy()), act(three))
    assert not equal(act(nine), act(three))
    assert equal(targets(agent), targets(one))
    assert not equal(targets(one), targets(nine))
    assert equal(targets(nine), targets(make('dfp', num_samples=9, eval_num_samples=3)))


def test_updates_are_pure_and_reproducible():
    agent, batch = make('dfp'), make_batch()
    before = jax.tree.map(jnp.copy, agent)
    first, second = agent.update(batch)[0], agent.update(batch)[0]
    assert equal(agent, before)
    assert equal(first, second)
    assert not equal(first.params, agent.params)
    assert not equal(first.rng, agent.rng)


def test_agents_train_side_by_side_under_vmap():
    batch = make_batch()
    pair = [make('dfp', seed=0), make('dfp', seed=1)]
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *pair)
    together, _ = jax.vmap(lambda agent: agent.update(batch))(stacked)
    for i, agent in enumerate(pair):
        alone, _ = agent.update(batch)
        jax.tree.map(
            lambda a, b, i=i: np.testing.assert_allclose(a[i], b, rtol=1e-4, atol=1e-5),
            together.params,
            alone.params,
        )


@pytest.mark.parametrize(
    ('method', 'chunking'), [('dfp', True), ('dfp', False), ('fql', False), ('mvp', False)]
)
def test_without_action_chunking_the_horizon_is_only_that_of_the_returns(method, chunking):
    agent = make(method, action_chunking=chunking)
    actions = agent.sample_actions(jnp.ones(OBSERVATION_DIM), jax.random.PRNGKey(0))
    assert actions.shape == ((HORIZON if chunking else 1), ACTION_DIM)
    batch = make_batch()
    other = batch | {'actions': batch['actions'].at[:, 1:].add(0.1)}
    same = equal(agent.update(batch)[0].params, agent.update(other)[0].params)
    assert same is not chunking


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


@pytest.mark.parametrize(('method', 'horizon'), [('dfp', 1), ('dfp', 5), ('fql', 1)])
def test_critic_learns_the_values_of_a_chain_it_can_compute_by_hand(method, horizon):
    """Q(s) = −Σ γ^k over the steps left."""
    agent = make(
        method, observation_dim=10, action_dim=1, horizon=horizon, num_samples=2, lr=1e-2, tau=0.1,
        actor_hidden_dims=(32,), critic_hidden_dims=(64, 64),
    )  # fmt: skip
    agent = train_on(agent, partial(chain, horizon=horizon), 300)
    apply = jax.jit(agent.modules['critic'].apply)
    values = apply(agent.params['critic'], np.eye(10), np.zeros((10, horizon)))
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


def test_under_vmap_a_batch_has_the_shapes_of_one_seed():
    agents = jax.tree.map(lambda *x: jnp.stack(x), make('bfn', seed=0), make('bfn', seed=1))
    batches = jax.tree.map(lambda *x: jnp.stack(x), make_batch(0), make_batch(1))
    update = jax.vmap(lambda agent, batch: agent.update(batch))
    update(agents, batches)
    with pytest.raises(ValueError, match=r'rewards has shape \(16, 1\): must be \(16,\)'):
        update(agents, batches | {'rewards': batches['rewards'][..., None]})


# ---- settings that cannot work ------------------------------------------------------------------


@pytest.mark.parametrize(
    ('method', 'changes'),
    [
        ('dfp', {'top_k': 17}),
        ('dfp', {'temperatures': ()}),
        ('dfp', {'temperatures': ('a',)}),
        ('dfp', {'temperatures': (0.1, -1.0)}),
        ('dfp', {'num_particles': 0}),
        ('dfp', {'num_samples': 0}),
        ('dfp', {'eval_num_samples': -1}),
        ('dfp', {'critic_hidden_dims': (1.5,)}),
        ('dfp', {'q_agg': 'median'}),
        ('dfp', {'ema_rate': 0.0}),
        ('dfp', {'tau': 2.0}),
        ('bfn', {'flow_steps': 0}),
        ('fql', {'alpha': -1.0}),
        ('mvp', {'time_std': -1.0}),
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


def test_an_unknown_agent_is_named_with_those_there_are():
    description = {'agent': {'agent_name': 'sac'}}
    with pytest.raises(
        ValueError, match=r'--agent=sac: no such file; .* agents/bfn.py, agents/dfp.py'
    ):
        make_agent(description, seed=0)


def test_settings_that_an_older_description_lacks_are_the_defaults():
    settings = dfp.get_config().to_dict() | {'top_k': 2, 'actor_hidden_dims': [8]}
    del settings['eval_num_samples']
    config = make_agent(describe(settings), seed=0).config
    assert (config.eval_num_samples, config.top_k, config.actor_hidden_dims) == (0, 2, (8,))


def test_frozen_settings_compare_by_value():
    assert freeze(dfp.get_config()) == freeze(dfp.get_config())
    assert hash(freeze(dfp.get_config())) == hash(freeze(dfp.get_config()))


@pytest.mark.parametrize('method', ['dfp', 'bfn'])
def test_a_diagnosis_values_data_samples_and_the_best_of_them(method):
    agent = make(method, num_samples=4)
    batch = cut(make_batch(), [0, 3], 2)
    rng = jax.random.PRNGKey(1)
    found = compiled(agent, 'diagnose', batch, rng)
    observations = batch['observations']
    samples = compiled(agent, 'propose', agent.params, observations, 4, rng)
    values = compiled(agent, 'score', observations, samples)
    chunks, _ = compiled(agent, 'masked_chunks', batch)
    data = compiled(agent, 'score', observations, np.asarray(chunks)[:, None])
    of_full = np.delete(np.asarray(data)[:, 0], [0, 3])
    values = np.asarray(values)
    expected = {
        'policy/q_data': of_full.mean(),
        'policy/q_samples': values.mean(),
        'policy/q_best': values.max(axis=1).mean(),
        'policy/diversity': np.sqrt(np.asarray(samples).var(axis=1, ddof=1).mean()),
    }
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-5, atol=1e-6, err_msg=name)
    assert found['policy/q_best'] > found['policy/q_samples']
    assert found['policy/diversity'] > 0.01


def test_a_method_that_plays_its_only_sample_has_a_diversity_too():
    agent = make('fql', num_samples=1)
    found = compiled(agent, 'diagnose', make_batch(), jax.random.PRNGKey(1))
    assert found['policy/q_best'] == found['policy/q_samples']
    assert np.isfinite(found['policy/diversity'])
    assert found['policy/diversity'] > 0
