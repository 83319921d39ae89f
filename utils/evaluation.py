"""Evaluation: many episodes of all seeds at once, the same ones every time."""

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np

from utils.seeds import over_seeds


@jax.jit
def _act(agents, observations, rngs, episodes, num_chunks):
    """Chunks `[S, n, h, d_a]`; the noise depends on seed, episode and chunk number alone."""

    def act_one(agent, observations, rng, episodes, num_chunks):
        def act(observation, episode, chunk):
            key = jax.random.fold_in(jax.random.fold_in(rng, episode), chunk)
            return agent.sample_actions(observation, key)

        return jax.vmap(act)(observations, episodes, num_chunks)

    return over_seeds(act_one, (0,) * 5)(agents, observations, rngs, episodes, num_chunks)


def evaluate(
    agents, env: gymnasium.vector.VectorEnv, num_episodes: int, seeds: list[int]
) -> list[dict[str, float]]:
    """Plays `num_episodes` episodes with each agent and averages what they came to.

    Start states and the policy's noise are functions of the agent's seed and the episode's number,
    so the same agent always gets the same score from the same number of environments. The policies
    are asked for all environments at once, and only when a chunk is due.

    Args:
        agents: stacked `[S, …]`, anything with `sample_actions(observations [d_s], rng) ->
            [h, d_a]`.
        env: S · n parallel environments of `envs.make_vector_env(mode='evaluate')`, of which each
            agent gets n.
        num_episodes: of each agent.
        seeds: of each agent's first episode; episode i is reset with `seed + i`.

    Returns:
        For each agent `success` (fraction of episodes successful at their last step), `return` and
        `length` (environment steps), averaged over episodes.
    """
    per_seed = env.num_envs // len(seeds)
    env.set_attr(
        'queue',
        [
            [(i, seed + i) for i in range(first, num_episodes, per_seed)]
            for seed in seeds
            for first in range(per_seed)
        ],
    )
    observations, info = env.reset()
    rngs = jnp.stack([jax.random.PRNGKey(seed) for seed in seeds])
    num_chunks = np.zeros(env.num_envs, np.int32)
    outcomes = [{'success': [], 'return': [], 'length': []} for _ in seeds]

    def by_seed(x):
        return x.reshape(len(seeds), per_seed, *x.shape[1:])

    while (info['episode'] >= 0).any():
        episodes = info['episode'].astype(np.int32)
        chunks = _act(agents, by_seed(observations), rngs, by_seed(episodes), by_seed(num_chunks))
        chunks = np.asarray(chunks).reshape(env.num_envs, *chunks.shape[2:])
        observations, _, _, _, info = env.step(chunks)
        num_chunks += 1
        num_chunks[info['finished']] = 0
        for i in np.flatnonzero(info['finished']):
            for name, values in outcomes[i // per_seed].items():
                values.append(float(info[name][i]))
    return [
        {name: float(np.mean(values)) for name, values in outcome.items()} for outcome in outcomes
    ]
