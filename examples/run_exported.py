"""Plays episodes with an exported policy: python -m examples.run_exported policy/ 10"""

import json
import pathlib
import sys

import jax.export
import numpy as np

import envs


def run(folder, num_episodes, rng):
    about = json.loads((folder / 'policy.json').read_text('utf-8'))
    act = jax.jit(jax.export.deserialize((folder / 'best_of_n.jax').read_bytes()).call)
    env = envs.make_env(envs.find_task(about['env_name'], about['suite']), **about['env_options'])
    shape = 1, about['num_samples'], *about['programs']['best_of_n']['inputs']['noises'][2:]
    for episode in range(num_episodes):
        (observation, info), queue, done = env.reset(seed=episode), [], False
        while not done:
            if not queue:
                chunk, _ = act(observation[None], rng.standard_normal(shape, np.float32))
                queue = list(np.asarray(chunk[0]))
            observation, _, terminated, truncated, info = env.step(queue.pop(0))
            done = terminated or truncated
        yield bool(info['success'])


if __name__ == '__main__':
    print(*run(pathlib.Path(sys.argv[1]), int(sys.argv[2]), np.random.default_rng(0)))
