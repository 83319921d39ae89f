"""Data collection with the scripted arm that ships with OGBench.

The arm repeatedly picks a random target, such as to carry a cube to a random place, press a button
or open the drawer, with noise in its plan. Rows have the format of OGBench's files, so
`ogbench.load_dataset` reads them. Source: OGBench (arXiv 2410.20092), appendix on data collection.
"""

import importlib.metadata
from typing import Any, cast

import gymnasium
import numpy as np

from envs.ogbench.names import scene_of

NOISE: dict[str, Any] = {'noise': 0.1, 'noise_smoothing': 0.5}
# Range of an episode's probability of targets on top of another cube.
STACKING = {
    'cube-single': (0, 0),
    'cube-double': (0, 0.25),
    'cube-triple': (0.05, 0.35),
    'cube-quadruple': (0.1, 0.5),
    'cube-octuple': (0, 0.35),
}
# For each saved array: its name, its type, and its key in the simulator's info.
_STATE = {
    'qpos': (np.float32, 'prev_qpos'),
    'qvel': (np.float32, 'prev_qvel'),
    'button_states': (np.int64, 'prev_button_states'),
}


class PlayScript:
    """Plays episodes of EPISODE_ROWS rows in its own environment, `env`.

    Args:
        dataset_name: such as 'cube-double-play-v0'.
    """

    def __init__(self, dataset_name: str):
        # Imported here because the process that only writes the files needs no simulator.
        from envs.ogbench.tasks import make_collection_env

        self._scene = scene_of(dataset_name)
        self.env = make_collection_env(self._scene)
        self._oracles = make_oracles(self.env, self._scene)

    def play(self, seed: tuple[int, ...]) -> dict[str, np.ndarray]:
        """Plays one episode; repeats it if it went wrong (see `is_healthy`).

        Args:
            seed: non-negative integers that identify the episode.

        Returns:
            Dict of arrays [EPISODE_ROWS, ...], float32: observations, actions, qpos and qvel, and
            int64: button_states (not for cubes), all from before the action; and bool: terminals,
            True on the last row.
        """
        rows, attempt = self._play(seed), 0
        while not is_healthy(self._scene, rows['qpos']):
            attempt += 1
            rows = self._play((*seed, attempt))
        return rows

    def _play(self, seed: tuple[int, ...]) -> dict[str, np.ndarray]:
        env, simulator = self.env, cast(Any, self.env.unwrapped)
        env_seed, oracle_seed, own_seed = np.random.SeedSequence(seed).generate_state(3).tolist()
        np.random.seed(oracle_seed)  # noqa: NPY002  (the oracle draws from the global generator)
        p_stack = np.random.default_rng(own_seed).uniform(*STACKING.get(self._scene, (0.5, 0.5)))

        columns = {'observations': [], 'actions': [], 'terminals': []}
        observation, info = env.reset(seed=env_seed)
        state = {key: (dtype, name) for key, (dtype, name) in _STATE.items() if name in info}
        columns |= {key: [] for key in state}
        oracle = self._oracle(observation, info)
        truncated = False
        while not truncated:
            action = np.clip(oracle.select_action(observation, info), -1, 1)
            next_observation, _, _, truncated, info = env.step(action)
            columns['observations'].append(observation)
            columns['actions'].append(action)
            columns['terminals'].append(truncated)
            for key, (_, name) in state.items():
                columns[key].append(info[name])
            observation = next_observation
            if oracle.done:
                observation, info = simulator.set_new_target(p_stack=p_stack)
                oracle = self._oracle(observation, info)

        dtypes = {'observations': np.float32, 'actions': np.float32, 'terminals': bool}
        dtypes |= {key: dtype for key, (dtype, _) in state.items()}
        return {key: np.array(column, dtypes[key]) for key, column in columns.items()}

    def _oracle(self, observation: np.ndarray, info: dict[str, Any]) -> Any:
        """Returns the oracle for the current target."""
        oracle = self._oracles[info['privileged/target_task']]
        oracle.reset(observation, info)
        return oracle


def make_oracles(env: gymnasium.Env, scene: str) -> dict[str, Any]:
    """Returns an oracle, which moves the arm, for each kind of target in a scene."""
    from ogbench.manipspace.oracles.plan.button_plan import ButtonPlanOracle
    from ogbench.manipspace.oracles.plan.cube_plan import CubePlanOracle
    from ogbench.manipspace.oracles.plan.drawer_plan import DrawerPlanOracle
    from ogbench.manipspace.oracles.plan.window_plan import WindowPlanOracle

    if scene.startswith('cube-'):
        return {'cube': CubePlanOracle(env=env, **NOISE)}
    if scene.startswith('puzzle-'):
        return {'button': ButtonPlanOracle(env=env, gripper_always_closed=True, **NOISE)}
    return {
        'cube': CubePlanOracle(env=env, **NOISE),
        'button': ButtonPlanOracle(env=env, **NOISE),
        'drawer': DrawerPlanOracle(env=env, **NOISE),
        'window': WindowPlanOracle(env=env, **NOISE),
    }


def is_healthy(scene: str, qpos: np.ndarray) -> bool:
    """Whether the cube of a `scene` stays where it can be seen and reached.

    Rarely the simulator throws it out of the drawer. OGBench's public data excludes such episodes
    with the same bounds.

    Args:
        scene: such as 'scene'; all others are healthy.
        qpos: [R, nq], of an episode.
    """
    if scene != 'scene':
        return True
    y, z = qpos[:, 15], qpos[:, 16]  # of the cube, after the 14 joints of the arm
    return not np.any((y >= 0.29) | ((y <= -0.3) & ((z < 0.06) | (z > 0.08))))


def details(dataset_name: str) -> dict[str, Any]:
    """Returns the script's entries in a manifest: versions, noise, stacking."""
    return {
        'ogbench': importlib.metadata.version('ogbench'),
        'mujoco': importlib.metadata.version('mujoco'),
        **NOISE,
        'stacking': STACKING.get(scene_of(dataset_name)),
    }
