"""OGBench's names of tasks and data, parsed without importing OGBench."""

import re
from dataclasses import dataclass

from utils.errors import UserError

CUBES = {'single': 1, 'double': 2, 'triple': 3, 'quadruple': 4, 'octuple': 8}
PUZZLES = ('3x3', '4x4', '4x5', '4x6')
SCENES = (*(f'cube-{size}' for size in CUBES), 'scene', *(f'puzzle-{size}' for size in PUZZLES))

_SCENES = f'{{cube-{{{",".join(CUBES)}}},scene,puzzle-{{{",".join(PUZZLES)}}}}}'
ENV_NAMES = f'{_SCENES}-{{play[-100m],noisy}}-singletask[-task{{1..5}}]-v0'
DATASET_NAMES = f'{_SCENES}-{{play[-100m],noisy}}-v0'

_DATASET_NAME = re.compile(rf'({"|".join(SCENES)})-(?:play(?:-100m)?|noisy)-v0')
_TASK_NAME = re.compile(r'(.*)-singletask(?:-task([1-5]))?(-v0)')


@dataclass(frozen=True)
class SingleTask:
    """The parsed name of a single-task environment.

    Attributes:
        scene: one of `SCENES`, such as 'cube-double'.
        task: 1 to 5, or 0 for OGBench's default task.
        dataset: name of the offline data, such as 'cube-double-play-v0'. '-play', '-play-100m' and
            '-noisy' in a name only change the data.
    """

    scene: str
    task: int
    dataset: str

    @property
    def env_id(self) -> str:
        """The environment's name in Gymnasium's registry, which has no data sets."""
        return f'{self.scene}-singletask{f"-task{self.task}" if self.task else ""}-v0'


def parse_task(env_name: str) -> SingleTask | None:
    """Parses a name such as 'cube-double-play-singletask-task2-v0'; None if unknown."""
    match = _TASK_NAME.fullmatch(env_name)
    dataset = match and _DATASET_NAME.fullmatch(match[1] + match[3])
    if not match or not dataset:
        return None
    return SingleTask(dataset[1], int(match[2] or 0), dataset[0])


def parse_dataset(name: str) -> str | None:
    """Returns 'cube-double' for 'cube-double-play-v0'; None for an unknown data set."""
    match = _DATASET_NAME.fullmatch(name)
    return match and match[1]


def scene_of(name: str) -> str:
    """Like `parse_dataset`, but an unknown data set is a UserError."""
    if (scene := parse_dataset(name)) is None:
        raise UserError(f'{name}: not a data set; use {DATASET_NAMES}')
    return scene


def is_large(name: str) -> bool:
    """Whether a data set is one of 100M transitions."""
    return '-100m-' in name


def is_noisy(name: str) -> bool:
    """Whether a data set is noisy data, not play data."""
    return '-noisy-' in name
