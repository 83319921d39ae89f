"""What every agent promises."""

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
@pytest.mark.parametrize('leading', [(), (5,), (2, 3)])
def test_actions_have_the_shape_of_a_chunk_for_any_leading_shape(method, leading):
    observations = jnp.ones((*leading, OBSERVATION_DIM))
    actions = make(method).sample_actions(observations, jax.random.PRNGKey(0))
    assert actions.shape == (*leading, HORIZON, ACTION_DIM)
    assert (jnp.abs(actions) <= 1).all()


@every_method
@pytest.mark.parametrize(
    ('q_agg', 'leading'), [('mean', (16,)), ('min', (2, 8)), ('mean_std', (16,))]
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


def test_scoring_in_bfloat16_changes_choices_little_and_losses_not_at_all():
    agent, rough = make('dfp', q_weight=1.0), make('dfp', q_weight=1.0, score_dtype='bfloat16')
    observations, rng = make_batch(size=500)['observations'], jax.random.PRNGKey(0)
    chunks = compiled(agent, 'propose', agent.params, observations, 8, rng)
    score = jax.jit(lambda agent: agent.score(observations, chunks))
    exact, values = score(agent), score(rough)
    assert values.dtype == jnp.float32
    assert 0 < jnp.abs(values - exact).max() < 0.1 * exact.std()

    @jax.jit
    def losses(agent):
        batch, online = make_batch(), agent.begin_online()
        critic = agent.critic_loss(agent.params, batch, jnp.arange(16.0))[0]
        return critic, online.actor_loss(online.params, batch, rng)[1]['actor/q_loss']

    assert losses(agent) == losses(rough)


@every_method
def test_one_proposal_is_plain_sampling_and_asks_no_critic(method):
    agent = make(method, num_samples=1)
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
    agent = train_on(agent, mixture, 600, average=200)
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


@pytest.mark.parametrize(('method', 'weight'), [('dfp', 'q_weight'), ('fql', 'alpha')])
def test_the_actors_loss_does_not_move_the_critic_nor_the_critics_loss_the_actor(method, weight):
    agent, batch = make(method, **{weight: 1.0}).begin_online(), make_batch()
    params = agent.update(batch)[0].params
    other_actor = make(method, **{weight: 3.0}).begin_online().update(batch)[0].params
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
def test_only_trained_parameters_have_optimiser_state(method):
    agent = make(method)
    count = lambda tree: sum(x.size for x in jax.tree.leaves(tree))  # noqa: E731
    assert count(agent.opt_state) == 2 * count(agent.params) + 1


@every_method
def test_the_seed_decides_the_parameters_and_the_key_of_all_later_draws(method):
    agent, again, other = make(method, seed=5), make(method, seed=5), make(method, seed=6)
    assert equal(agent, again)
    assert not equal(agent.params, other.params)
    assert not equal(agent.params['critic'], other.params['critic'])
    np.testing.assert_array_equal(agent.rng, key_for(5, 'batches'))


@every_method
def test_a_policy_acts_like_its_agent_and_holds_nothing_but_parameters(method):
    agent, rng = make(method), jax.random.PRNGKey(0)
    observations = make_batch()['observations']
    for policy in (agent.policy(), agent.exploration_policy()):
        actions = policy.sample_actions(observations, rng)
        assert equal(actions, agent.sample_actions(observations, rng))
        assert len(jax.tree.leaves(policy)) == len(jax.tree.leaves(agent.params))


@every_method
def test_evaluation_may_choose_among_more_proposals_than_play_and_targets(method):
    agent, more = make(method, num_samples=3, eval_num_samples=9), make(method, num_samples=9)
    batch, rng = make_batch(), jax.random.PRNGKey(0)
    act = lambda policy: policy.sample_actions(batch['observations'], rng)  # noqa: E731
    assert equal(act(agent.policy()), act(more))
    assert equal(act(agent.exploration_policy()), act(make(method, num_samples=3)))
    assert not equal(act(agent.policy()), act(agent.exploration_policy()))
    agents = agent, make(method, num_samples=3)
    assert equal(*(compiled(x, 'td_targets', batch, rng) for x in agents))


@pytest.mark.parametrize('method', [m for m in METHODS if m != 'fql'])
def test_the_critics_targets_may_choose_among_another_number_than_play(method):
    """With one it is a' ~ π, as the paper has it."""
    agent = make(method, num_samples=9, target_num_samples=1)
    batch, rng = make_batch(), jax.random.PRNGKey(0)
    one, nine = make(method, num_samples=1), make(method, num_samples=9)
    targets, of_one, of_nine = (compiled(x, 'td_targets', batch, rng) for x in (agent, one, nine))
    assert equal(targets, of_one)
    assert not equal(targets, of_nine)
    act = lambda policy: policy.sample_actions(batch['observations'], rng)  # noqa: E731
    assert equal(act(agent.exploration_policy()), act(nine))
    assert equal(act(agent.policy()), act(nine))


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


@pytest.mark.parametrize(('method', 'chunking'), [('dfp', True), *((m, False) for m in METHODS)])
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


@pytest.mark.parametrize(
    ('method', 'horizon'), [('bfn', 5), ('dfp', 1), ('dfp', 5), ('fql', 1), ('mvp', 5)]
)
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
    ('name', 'shape', 'message'),
    [
        ('observations', (16, 4), r'observations has shape \(16, 4\): must be \(16, 3\)'),
        ('observations', (3,), r'observations has shape \(3,\)'),
        ('actions', (16, 3, 2), r'actions has shape \(16, 3, 2\): must be \(16, 4, 2\)'),
        ('actions', (16, 8), r'actions has shape \(16, 8\): must be \(16, 4, 2\)'),
        ('rewards', (16, 1), r'rewards has shape \(16, 1\): must be \(16,\)'),
        ('rewards', (), r'rewards has shape \(\): must be \(16,\)'),
        ('masks', (16, 1), r'masks has shape \(16, 1\): must be \(16,\)'),
        ('next_observations', (1, 3), r'next_observations has shape \(1, 3\): must be \(16, 3\)'),
        ('valid', (16,), r'valid has shape \(16,\): must be \(\.\.\., 4\)'),
        ('valid', (16, 1), r'valid has shape \(16, 1\): must be \(\.\.\., 4\)'),
    ],
)
def test_a_batch_with_a_wrong_shape_is_refused_by_name(name, shape, message):
    agent, batch = make('dfp'), make_batch() | {name: jnp.ones(shape)}
    with pytest.raises(ValueError, match=message):
        agent.update(batch)


@pytest.mark.parametrize('name', sorted(make_batch()))
def test_a_batch_without_one_of_its_arrays_is_refused_by_name(name):
    batch = make_batch()
    del batch[name]
    with pytest.raises(ValueError, match=f'^{name} is missing'):
        make('dfp').update(batch)


def test_under_vmap_a_batch_has_the_shapes_of_one_seed():
    agents = jax.tree.map(lambda *x: jnp.stack(x), make('bfn', seed=0), make('bfn', seed=1))
    batches = jax.tree.map(lambda *x: jnp.stack(x), make_batch(0), make_batch(1))
    update = jax.vmap(lambda agent, batch: agent.update(batch))
    update(agents, batches)
    with pytest.raises(ValueError, match=r'rewards has shape \(16, 1\): must be \(16,\)'):
        update(agents, batches | {'rewards': batches['rewards'][..., None]})


@pytest.mark.parametrize('shape', [(4,), (16, 2), ()])
def test_observations_of_another_size_are_refused(shape):
    agent = make('dfp')
    with pytest.raises(ValueError, match=r'observations has shape .* must be \(\.\.\., 3\)'):
        agent.sample_actions(jnp.ones(shape), jax.random.PRNGKey(0))


# ---- settings that cannot work ------------------------------------------------------------------


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'top_k': 17}, r'--agent.top_k=17: must be from 0 to --agent.num_candidates=16'),
        ({'top_k': -1}, r'--agent.top_k=-1'),
        ({'num_negatives': 13}, r'--agent.num_negatives=13: must be from 0 to .* = 12'),
        ({'temperatures': ()}, r'--agent.temperatures=\(\): needs at least one'),
        ({'temperatures': ('a',)}, r"--agent.temperatures=\('a',\): needs at least one number"),
        ({'temperatures': (float('nan'),)}, r'--agent.temperatures=\(nan,\): needs at least one'),
        ({'actor_hidden_dims': ('(a',)}, r"--agent.actor_hidden_dims=\('\(a',\): needs"),
        ({'critic_hidden_dims': (1.5,)}, r'--agent.critic_hidden_dims=\(1.5,\): needs at least'),
        ({'temperatures': (0.1, -1.0)}, r'--agent.temperatures=.*above 0'),
        ({'num_particles': 0}, r'--agent.num_particles=0: must be at least 1'),
        ({'num_samples': 0}, r'--agent.num_samples=0: must be at least 1'),
        ({'eval_num_samples': -1}, r'--agent.eval_num_samples=-1: must be at least 1, or 0 for'),
        ({'target_num_samples': -1}, r'--agent.target_num_samples=-1: must be at least 1, or 0'),
        ({'q_agg': 'median'}, r'--agent.q_agg=median: use mean or min or mean_std'),
        ({'rho': -0.5}, r'--agent.rho=-0.5: must not be negative'),
        ({'topk_phases': 'never'}, r'--agent.topk_phases=never: use online or both or offline'),
        ({'score_dtype': 'half'}, r'--agent.score_dtype=half: use float32 or bfloat16'),
        ({'topk_weight': -1.0}, r'--agent.topk_weight=-1.0: must not be negative'),
        ({'ema_rate': 0.0}, r'--agent.ema_rate=0.0'),
        ({'tau': 2.0}, r'--agent.tau=2.0: must be in \(0, 1\]'),
        ({'method': 'bfn', 'flow_steps': 0}, r'--agent.flow_steps=0: must be at least 1'),
        ({'method': 'fql', 'flow_steps': 0}, r'--agent.flow_steps=0: must be at least 1'),
        ({'method': 'fql', 'alpha': -1.0}, r'--agent.alpha=-1.0: must not be negative'),
        ({'method': 'mvp', 'ivc_weight': -1.0}, r'--agent.ivc_weight=-1.0: must not be'),
        ({'method': 'mvp', 'time_std': -1.0}, r'--agent.time_std=-1.0: must not be negative'),
        ({'method': 'mvp', 'top_k': 0, 'data_weight': 0}, r'leaves nothing to learn from'),
        (
            {'method': 'mvp', 'top_k': 4, 'topk_phases': 'offline', 'data_weight': 0},
            r'leaves nothing to learn from online without .*topk_phases=online or both',
        ),
        ({'horizon': 0}, r'--horizon_length=0: must be at least 1'),
    ],
)
def test_settings_that_cannot_work_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        make(**{'method': 'dfp'} | changes)


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


@pytest.mark.parametrize('method', METHODS)
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
