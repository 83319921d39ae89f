"""Evaluation: many episodes at once, the same ones every time."""

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np


@jax.jit
def _act(agent, observations, rng, episodes, num_chunks):
    """Chunks `[n, h, d_a]`; the noise depends on episode and chunk number alone."""

    def act(observation, episode, chunk):
        key = jax.random.fold_in(jax.random.fold_in(rng, episode), chunk)
        return agent.sample_actions(observation, key)

    return jax.vmap(act)(observations, episodes, num_chunks)


def evaluate(agent, env: gymnasium.vector.VectorEnv, num_episodes: int, seed: int) -> dict:
    """Plays `num_episodes` episodes and averages what they came to.

    Start states and the policy's noise are functions of `seed` and the episode's number, so the
    same agent always gets the same score from the same number of environments. The policy is
    asked for all environments at once, and only when a chunk is due.

    Args:
        agent: anything with `sample_actions(observations [d_s], rng) -> [h, d_a]`, a pytree.
        env: n parallel environments of `envs.make_vector_env`.
        num_episodes: in total.
        seed: of the first episode; episode i is reset with `seed + i`.

    Returns:
        `success` (fraction of episodes successful at their last step), `return` and `length`
        (environment steps), averaged over episodes.
    """
    num_envs = env.num_envs
    options = {'first': seed, 'stride': num_envs, 'num_episodes': num_episodes}
    observations, info = env.reset(seed=[seed + i for i in range(num_envs)], options=options)
    rng = jax.random.PRNGKey(seed)
    num_chunks = np.zeros(num_envs, np.int32)
    outcomes = {'success': [], 'return': [], 'length': []}
    while (info['episode'] >= 0).any():
        episodes = jnp.asarray(info['episode'], jnp.int32)
        chunks = np.asarray(_act(agent, observations, rng, episodes, num_chunks))
        observations, _, _, _, info = env.step(chunks)
        num_chunks += 1
        finished = info['finished']
        num_chunks[finished] = 0
        for name, values in outcomes.items():
            values.extend(info[name][finished].tolist())
    return {name: float(np.mean(values)) for name, values in outcomes.items()}
