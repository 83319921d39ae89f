"""The scripted arm that ships with OGBench plays with the cubes.

It carries a random cube to a random place, again and again, with noise in its plan. The rows it
leaves have the format of OGBench's files, so `ogbench.load_dataset` reads them.
Source: OGBench (arXiv 2410.20092), appendix on data collection.
"""

import importlib.metadata
from typing import Any

import numpy as np

from envs.ogbench.names import cubes_of

NOISE = {'noise': 0.1, 'noise_smoothing': 0.5}
# The range from which an episode draws its probability of a target on top of another cube.
STACKING = {'single': (0, 0), 'double': (0, 0.25), 'triple': (0.05, 0.35), 'quadruple': (0.1, 0.5)}


class CubeScript:
    """Plays episodes of EPISODE_ROWS rows in an environment of its own, `env`.

    Args:
        dataset_name: such as 'cube-double-play-v0'.
    """

    def __init__(self, dataset_name: str):
        # Imported here, so that the process that only writes the files needs no simulator.
        from ogbench.manipspace.oracles.plan.cube_plan import CubePlanOracle

        from envs.ogbench.tasks import make_collection_env

        self._cubes = cubes_of(dataset_name)
        self.env = make_collection_env(self._cubes)
        self._scene: Any = self.env.unwrapped
        self._oracle = CubePlanOracle(env=self.env, **NOISE)

    def play(self, seed: tuple[int, ...]) -> dict[str, np.ndarray]:
        """Plays one episode.

        Args:
            seed: non-negative integers that name the episode.

        Returns:
            Dict of arrays [EPISODE_ROWS, ...], float32: observations, actions, qpos and qvel (all
            of the state before the action), and bool: terminals, True on the last row.
        """
        env, oracle = self.env, self._oracle
        env_seed, oracle_seed, own_seed = np.random.SeedSequence(seed).generate_state(3).tolist()
        np.random.seed(oracle_seed)  # noqa: NPY002  (the oracle draws from the global generator)
        p_stack = np.random.default_rng(own_seed).uniform(*STACKING[self._cubes])

        rows = []
        observation, info = env.reset(seed=env_seed)
        oracle.reset(observation, info)
        truncated = False
        while not truncated:
            action = np.clip(oracle.select_action(observation, info), -1, 1)
            next_observation, _, _, truncated, info = env.step(action)
            rows.append((observation, action, truncated, info['prev_qpos'], info['prev_qvel']))
            observation = next_observation
            if oracle.done:
                observation, info = self._scene.set_new_target(p_stack=p_stack)
                oracle.reset(observation, info)

        keys = ('observations', 'actions', 'terminals', 'qpos', 'qvel')
        return {
            key: np.array(column, bool if key == 'terminals' else np.float32)
            for key, column in zip(keys, zip(*rows, strict=True), strict=True)
        }


def details(dataset_name: str) -> dict[str, Any]:
    """Returns what a manifest says about the script: versions, noise, stacking."""
    return {
        'ogbench': importlib.metadata.version('ogbench'),
        'mujoco': importlib.metadata.version('mujoco'),
        **NOISE,
        'stacking': STACKING[cubes_of(dataset_name)],
    }
