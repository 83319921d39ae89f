"""Evaluation: many episodes of all seeds at once, the same episodes every time."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from envs.episodes import episode_seed
from training.updates import on_each_device
from utils.errors import NotFinite
from utils.keys import key_for
from utils.seeds import over_seeds


@jax.jit
def _act(policies, observations, rngs, episodes, num_chunks):
    """Returns chunks `[S, n, h, d_a]`; their noise depends on seed, episode and chunk alone."""

    def act_one(policy, observations, rng, episodes, num_chunks):
        def act(observation, episode, chunk):
            key = jax.random.fold_in(jax.random.fold_in(rng, episode), chunk)
            return policy.sample_actions(observation, key)

        return jax.vmap(act)(observations, episodes, num_chunks)

    return over_seeds(act_one, (0,) * 5)(policies, observations, rngs, episodes, num_chunks)


def evaluate(
    policies: Sequence[Any],
    env: Any,
    num_episodes: int,
    seeds: Sequence[int],
    between_steps: Callable[[], None] = lambda: None,
) -> list[dict[str, float]]:
    """Plays `num_episodes` episodes with each policy and averages their outcomes.

    Start states depend only on the seed and the episode's number, noise also on the chunk's number.
    So the same policy always gets the same score from the same number of environments, also if one
    of them is replaced, which plays its open episode anew. One call of a policy gives a chunk for
    each of its environments.

    Args:
        policies: stacks `[S_d, …]`, one for each device, of anything with
            `sample_actions(observations [d_s], rng) -> [h, d_a]`; S in all.
        env: S · n parallel environments of `envs.make_vector_env(mode='evaluate')`, of which each
            policy gets n.
        num_episodes: of each policy.
        seeds: of each policy, of its run; they decide the start states and the noise.
        between_steps: called before every chunk; an exception that it raises ends the evaluation.

    Raises:
        NotFinite: an observation, a policy's action or a return is not.
        SimulatorError: an environment failed again and again, see `envs.vector.ParallelEnvs`.

    Returns:
        For each policy `success` (fraction of episodes successful at their last step), `return` and
        `length` (environment steps), averaged over episodes; `replaced_workers`, how many of its
        environments' processes failed and were replaced.
    """
    per_seed = env.num_envs // len(seeds)
    env.set_attr(
        'queue',
        [
            [(i, episode_seed(seed, i, 'evaluate')) for i in range(first, num_episodes, per_seed)]
            for seed in seeds
            for first in range(per_seed)
        ],
    )
    observations, info = env.reset()
    rngs = jnp.stack([key_for(seed, 'evaluation') for seed in seeds])
    rngs = np.asarray(rngs)
    num_chunks = np.zeros(env.num_envs, np.int32)
    outcomes = [{'success': [], 'return': [], 'length': []} for _ in seeds]

    def by_seed(x):
        return x.reshape(len(seeds), per_seed, *x.shape[1:])

    def check(what: str, values: np.ndarray) -> None:
        if not np.isfinite(values).all():
            bad = int(np.argwhere(~np.isfinite(values))[0, 0])
            raise NotFinite(
                f'evaluation of seed {seeds[bad // per_seed]}, episode {episodes[bad]}: {what} not '
                'finite'
            )

    replaced = by_seed(info['replaced']).sum(axis=1)
    while (info['episode'] >= 0).any():
        between_steps()
        episodes = info['episode']
        check('the environment gave an observation that is', observations)
        inputs = [
            by_seed(observations),
            rngs,
            by_seed(episodes.astype(np.int32)),
            by_seed(num_chunks),
        ]
        chunks = on_each_device(_act, policies, *inputs)
        chunks = chunks.reshape(env.num_envs, *chunks.shape[2:])
        check('the policy chose an action that is', chunks)
        observations, rewards, _, _, info = env.step(chunks)
        check('the environment gave a reward that is', rewards)
        replaced += by_seed(info['replaced']).sum(axis=1)
        num_chunks += 1
        num_chunks[info['finished'] | (info['replaced'] > 0)] = 0  # another episode, or anew
        for i in np.flatnonzero(info['finished']):
            for name, values in outcomes[i // per_seed].items():
                values.append(float(info[name][i]))
    # Sums that do not depend on the order in which the episodes ended.
    return [
        {name: math.fsum(values) / len(values) for name, values in outcome.items()}
        | {'replaced_workers': int(count)}
        for outcome, count in zip(outcomes, replaced, strict=True)
    ]
