"""Robomimic: manipulation tasks of robosuite, with human or scripted demonstrations.

Sources: robomimic (arXiv 2108.03298), robosuite (arXiv 2009.12293).
"""

import importlib.metadata
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from envs.robomimic.names import DATASET_NAMES, ENV_NAMES, SCRIPTED, SUFFIX, parse
from envs.suite import Component, Interface, Option, ScriptedPolicy, Suite, Task

if TYPE_CHECKING:
    import gymnasium

    from envs.datasets import Dataset


# Units of observations and actions; lengths and angles of actions are for the public data's
# controller.
UNITS = {
    'robot0_eef_pos': 'm',
    'robot0_eef_quat': 'quaternion x, y, z, w',
    'robot0_gripper_qpos': 'm',
    'object': "m and quaternions, robosuite's object-state",
}
ACTION = (
    Component('hand translation in this step', 3, '0.05 m'),
    Component('hand rotation in this step, axis and angle', 3, '0.5 rad'),
    Component('gripper, -1 opens, +1 closes', 1, '1'),
)


class Robomimic(Suite):
    """The tasks lift, can and square, observed as vectors."""

    name = 'robomimic'
    names = ENV_NAMES
    dataset_names = DATASET_NAMES
    options = (
        Option('robomimic_dataset_dir', None, 'Robomimic: folder of the data; default: '
               '$ROBOMIMIC_DATASET_DIR, else ~/.robomimic.', type=str, decides_result=False),
    )  # fmt: skip
    preload = ('envs.robomimic.tasks',)
    file_suffix = SUFFIX

    @property
    def dataset_dir(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        return os.environ.get('ROBOMIMIC_DATASET_DIR') or '~/.robomimic'

    def _directory(self, option: str | None) -> Path:
        return Path(option or self.dataset_dir).expanduser()

    def parse(self, env_name: str) -> Task | None:
        details = parse(env_name)
        return None if details is None else Task(env_name, self, details.dataset, details)

    def make_env(
        self, task: Task, *, render=False, robomimic_dataset_dir=None, **options
    ) -> 'gymnasium.Env':
        """Makes the environment of the data on disk, or of the public data if there is none.

        Raises:
            DatasetError: the file on disk does not describe its environment, or is of another task.
        """
        from envs.robomimic import data, tasks

        env_args = data.find_env_args(task.details, self._directory(robomimic_dataset_dir))
        return tasks.make_env(task.details, env_args, render)

    def make_dataset(
        self, task: Task, *, request, robomimic_dataset_dir=None, **options
    ) -> 'Dataset':
        from envs.robomimic import data

        directory = self._directory(robomimic_dataset_dir)
        return data.make_dataset(self, task.details, directory, request)

    def interface(self, task: Task, *, robomimic_dataset_dir=None, **options) -> Interface:
        from envs.robomimic import data

        directory = self._directory(robomimic_dataset_dir)
        settings = data.find_env_args(task.details, directory)['env_kwargs']
        parts = (Component(name, size, UNITS[name]) for name, size in task.details.widths.items())
        rate = float(settings.get('control_freq', 20))
        return Interface(tuple(parts), ACTION, rate, (-1.0, 1.0))

    def parse_dataset(self, name: str) -> Any | None:
        details = parse(name)
        return details if details is not None and details.kind == SCRIPTED else None

    def make_scripted_policy(self, dataset_name: str) -> ScriptedPolicy:
        from envs.robomimic.scripted import Demonstrator

        task: Any = self.parse_dataset(dataset_name)
        return Demonstrator(task)

    def write_episodes(self, path: Path, dataset_name: str, episodes: list) -> None:
        from envs.robomimic.files import write_file

        task: Any = self.parse_dataset(dataset_name)
        write_file(path, task, episodes)

    def collection_details(self, dataset_name: str) -> dict[str, Any]:
        return {name: importlib.metadata.version(name) for name in ('robosuite', 'mujoco')}


suite = Robomimic()
