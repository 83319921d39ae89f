"""Data collection with the scripted arm that ships with OGBench.

The arm repeatedly picks a random target, such as to carry a cube to a random place, press a button
or open the drawer. For play data it follows a plan, with noise in the plan. For noisy data it looks
at every state (a Markov policy), and its actions are noisy or random. Rows have the format of
OGBench's files, so `ogbench.load_dataset` reads them. Source: OGBench (arXiv 2410.20092), appendix
on data collection, and its data_gen_scripts/.
"""

import importlib
import importlib.metadata
from typing import Any, cast

import gymnasium
import numpy as np

from envs.ogbench.names import is_noisy, scene_of

PLAN: dict[str, Any] = {'noise': 0.1, 'noise_smoothing': 0.5}
# Range of an episode's probability of targets on top of another cube.
STACKING = {
    'cube-single': (0, 0),
    'cube-double': (0, 0.25),
    'cube-triple': (0.05, 0.35),
    'cube-quadruple': (0.1, 0.5),
    'cube-octuple': (0, 0.35),
}
# Noisy data: the largest deviation of an episode's noise, its factor for each component of an
# action (x, y, z, yaw, opening), and the probability of a random action.
NOISE, NOISE_FACTORS = 0.1, (1, 1, 1, 3, 10)
RANDOM_ACTIONS = {'cube': 0.1, 'scene': 0.1, 'puzzle': 0.2}
# Arrays saved from the simulator's info, where their names begin with prev_.
STATE = {'qpos': np.float32, 'qvel': np.float32, 'button_states': np.int64}


class ScriptedArm:
    """Plays episodes of EPISODE_ROWS rows in its own environment, `env`.

    Args:
        dataset_name: such as 'cube-double-play-v0'.
    """

    def __init__(self, dataset_name: str):
        # Imported here because the process that only writes the files needs no simulator.
        from envs.ogbench.tasks import make_collection_env

        self._scene, self._is_noisy = scene_of(dataset_name), is_noisy(dataset_name)
        self.env = make_collection_env(self._scene)
        self._oracles = make_oracles(self.env, self._scene, self._is_noisy)

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
        rng = np.random.default_rng(own_seed)
        p_stack = rng.uniform(*STACKING.get(self._scene, (0.5, 0.5)))
        scale = rng.uniform(0, NOISE) * np.array(NOISE_FACTORS)

        observation, info = env.reset(seed=env_seed)
        state = {key: dtype for key, dtype in STATE.items() if f'prev_{key}' in info}
        dtypes = {'observations': np.float32, 'actions': np.float32, 'terminals': bool, **state}
        columns = {key: [] for key in dtypes}
        oracle = self._oracle(observation, info)
        truncated = False
        while not truncated:
            if self._is_noisy and rng.random() < RANDOM_ACTIONS[self._scene.partition('-')[0]]:
                action = rng.uniform(-1, 1, 5)
            else:
                action = oracle.select_action(observation, info)
                action = action + rng.normal(0, scale) if self._is_noisy else action
            action = np.clip(action, -1, 1)
            next_observation, _, _, truncated, info = env.step(action)
            saved = (observation, action, truncated, *(info[f'prev_{key}'] for key in state))
            for column, value in zip(columns.values(), saved, strict=True):
                column.append(value)
            observation = next_observation
            if oracle.done:
                observation, info = simulator.set_new_target(p_stack=p_stack)
                oracle = self._oracle(observation, info)
        return {key: np.array(column, dtypes[key]) for key, column in columns.items()}

    def _oracle(self, observation: np.ndarray, info: dict[str, Any]) -> Any:
        """Returns the oracle for the current target."""
        oracle = self._oracles[info['privileged/target_task']]
        oracle.reset(observation, info)
        return oracle


def make_oracles(env: gymnasium.Env, scene: str, noisy: bool) -> dict[str, Any]:
    """Returns an oracle, which moves the arm, for each kind of target in a scene."""
    kind, options = ('markov', {}) if noisy else ('plan', PLAN)
    targets = {'cube': ['cube'], 'puzzle': ['button']}.get(scene.partition('-')[0])
    oracles = {}
    for target in targets or ['cube', 'button', 'drawer', 'window']:
        module = importlib.import_module(f'ogbench.manipspace.oracles.{kind}.{target}_{kind}')
        oracle = getattr(module, f'{target.title()}{kind.title()}Oracle')
        closed = {'gripper_always_closed': True} if scene.startswith('puzzle') else {}
        oracles[target] = oracle(env=env, **options, **closed)
    return oracles


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
    """Returns the scripted policy's entries in a manifest: versions, noise, stacking."""
    scene = scene_of(dataset_name)
    random = RANDOM_ACTIONS[scene.partition('-')[0]]
    versions = {name: importlib.metadata.version(name) for name in ('ogbench', 'mujoco')}
    noise = {'noise': NOISE, 'random_actions': random} if is_noisy(dataset_name) else PLAN
    return versions | noise | {'stacking': STACKING.get(scene)}
