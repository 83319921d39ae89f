"""One definition of a transition: trees of observations, further entries, images."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_agents import compiled, equal

from agents import dfp
from training import state as states
from training import updates
from training.config import RunConfig
from training.run import describe
from utils.encoders import _convolution, _product, crop
from utils.replay import Replay, Rows
from utils.spec import Spec, check_tree

HORIZON = 3


def entries(numbers):
    """Rows `[R, …]` whose every state, image, reward and goal tell their number."""
    numbers = np.asarray(numbers, np.float32)
    image = np.tile(numbers[:, None, None, None], (8, 8, 1)).astype(np.uint8)
    return {
        'observations': {'state': numbers[:, None] / 100, 'image': image},
        'actions': np.zeros((len(numbers), 2), np.float32),
        'rewards': numbers / 100,
        'masks': np.ones(len(numbers), np.float32),
        'goal': np.stack([numbers, -numbers], axis=1),
    }


def pixel_rows():
    """Two episodes, of rows 0 to 6 and 10 to 14."""
    numbers = np.array([*range(7), *range(10, 15)])
    return entries(numbers) | {'terminals': np.isin(numbers, (6, 14))}


def chunk(first, length, done):
    """Transitions of an episode whose states are `first`, `first` + 1, …"""
    end = jax.tree.map(lambda x: x[0], entries([first + length])['observations'])
    played = {'length': length, 'next_observation': end, 'done': done}
    return entries(first + np.arange(HORIZON)) | played


def numbers_agree(batch):
    """Whether each sampled state, image, reward and goal are of the same row; returns the rows."""
    state = np.rint(100 * np.asarray(batch['observations']['state'][:, 0])).astype(int)
    image = np.asarray(batch['observations']['image'])[:, 0, 0, -1]
    np.testing.assert_array_equal(state, image)
    np.testing.assert_array_equal(state, batch['goal'][:, 0, 0])
    np.testing.assert_array_equal(-state, batch['goal'][:, 0, 1])
    after = state + np.asarray(batch['valid']).sum(axis=1).astype(int)
    np.testing.assert_array_equal(
        after, np.asarray(batch['next_observations']['image'])[:, 0, 0, 0]
    )
    invalid = np.asarray(batch['valid']) == 0
    assert not np.asarray(batch['goal'])[invalid].any()
    return set(state.tolist())


sample = jax.jit(Replay.sample, static_argnums=(3, 4, 5, 6))


def test_an_entry_that_data_adds_is_sampled_offline_online_after_wrapping_and_after_resume():
    data = Rows.from_dataset(pixel_rows())
    assert data.fields['observations']['image'].dtype == jnp.uint8
    config = RunConfig(
        agent=dfp.get_config().to_dict()
        | {'actor_hidden_dims': (8,), 'critic_hidden_dims': (8,), 'encoder': 'impala_small'},
        horizon_length=HORIZON, online_steps=40, buffer_size=14,
    )  # fmt: skip
    description = describe(config, Spec.of(data.fields))
    state = states.create(description, [0], [data], config.buffer_size)
    draw = lambda replays, seed=0: sample(  # noqa: E731
        jax.tree.map(lambda x: x[0], replays), data, jax.random.PRNGKey(seed), 200, HORIZON, 0.9
    )
    assert numbers_agree(draw(state.seeds[0].replays)) == {0, 1, 2, 3, 4, 5, 10, 11, 12, 13}

    state = states.begin_online(state, [data], config)
    (part,) = state.seeds
    for i in range(9):  # more than there is room for: the data's first episode is overwritten
        transitions = jax.tree.map(lambda x: np.asarray(x)[None], chunk(50 + 10 * i, 2, True))
        part = part.replace(replays=updates.add_transitions(part.replays, data, transitions))
        drawn = numbers_agree(draw(part.replays))
        assert drawn >= {50 + 10 * i, 51 + 10 * i}
    assert not drawn & set(range(20))

    saved = dataclasses.replace(state, seeds=(part,))
    arrays, metadata = states.to_arrays(saved)
    fresh = states.create(description, [0], [data], config.buffer_size)
    again = states.from_arrays(metadata, arrays, fresh, [data], config, 'here')
    assert equal(draw(again.seeds[0].replays), draw(saved.seeds[0].replays))


def test_frames_are_the_last_of_the_episode_and_the_first_is_repeated():
    data = Rows.from_dataset(pixel_rows())
    batch = sample(Replay.create(data, 50), data, jax.random.PRNGKey(0), 100, HORIZON, 0.9, 3)
    for name in ('observations', 'next_observations'):
        newest = np.rint(100 * np.asarray(batch[name]['state'][:, 0])).astype(int)
        frames = np.asarray(batch[name]['image'])[:, 4, 4].astype(int)
        first = newest // 10 * 10
        np.testing.assert_array_equal(frames.T, [np.maximum(newest - i, first) for i in (2, 1, 0)])


def test_crops_move_images_by_their_own_offset_and_both_observations_alike():
    images = np.random.default_rng(0).integers(0, 255, (16, 9, 9, 3)).astype(np.uint8)
    batch = {'observations': images, 'next_observations': images, 'rewards': jnp.zeros(16)}
    always = jax.jit(crop)(batch, jax.random.PRNGKey(0), 1.0)
    assert equal(always['observations'], always['next_observations'])
    padded = np.pad(images, [(0, 0), (3, 3), (3, 3), (0, 0)], mode='edge')
    offsets = []
    for before, found in zip(padded, np.asarray(always['observations']), strict=True):
        places = [
            (y, x) for y in range(7) for x in range(7)
            if np.array_equal(before[y : y + 9, x : x + 9], found)
        ]  # fmt: skip
        offsets += places
    assert len(offsets) == 16
    assert len(set(offsets)) > 8
    rates = [
        not np.array_equal(crop(batch, jax.random.PRNGKey(i), 0.5)['observations'], images)
        for i in range(40)
    ]
    assert 10 < sum(rates) < 30


def test_a_spec_survives_json_and_names_what_does_not_fit():
    spec = Spec.of(pixel_rows())
    assert Spec.from_json(spec.to_json()) == spec
    assert hash(Spec.from_json(spec.to_json())) == hash(spec)
    wrong = {'observations': {'state': np.zeros(2), 'image': np.zeros((8, 8, 1))}}
    with pytest.raises(ValueError, match=r'observations/state has shape \(2,\): must be \(1,\)'):
        check_tree(wrong, {'observations': spec.shapes('observations')})


def pixel_agent(**changes):
    config = dfp.get_config()
    config.update(
        actor_hidden_dims=(32,), critic_hidden_dims=(32,), encoder='impala_small', batch_size=8,
        num_particles=2, num_samples=2, num_candidates=4, top_k=2, **changes,
    )  # fmt: skip
    return dfp.DFPAgent.create(0, Spec.of(pixel_rows()), config, HORIZON, frame_stack=2, p_aug=0.5)


def test_every_network_has_an_encoder_that_learns_and_slow_copies_have_theirs():
    agent = pixel_agent().begin_online()
    assert {'actor_encoder', 'critic_encoder'} <= set(agent.params) == set(agent.slow)
    data = Rows.from_dataset(pixel_rows())
    replay, rng = Replay.create(data, 50), jax.random.PRNGKey(0)
    batch = compiled(agent, 'sample_batch', replay, data, rng)
    assert batch['observations']['image'].shape == (8, 8, 8, 2)

    new, info = agent.update(batch)
    assert all(np.isfinite(x) for x in info.values())
    assert not equal(new.params['actor_encoder'], agent.params['actor_encoder'])
    assert not equal(new.slow['critic_encoder'], agent.slow['critic_encoder'])


def test_a_convolution_is_the_same_on_every_device():
    rng = np.random.default_rng(0)
    x, kernel = (jnp.asarray(rng.normal(size=s), jnp.float32) for s in ((2, 5, 6, 3), (3, 3, 3, 4)))
    np.testing.assert_allclose(_product(x, kernel), _convolution(x, kernel), atol=1e-5)
