"""Robomimic's names of tasks and data, and the components of an observation.

Source: robomimic (arXiv 2108.03298); task names as in Q-chunking (arXiv 2507.07969).
"""

import itertools
import re
from dataclasses import dataclass

SIMULATED = {'lift': 'Lift', 'can': 'PickPlaceCan', 'square': 'NutAssemblySquare'}
LIMITS = {'lift': 300, 'can': 300, 'square': 400}  # steps after which an episode is truncated
ARM_WIDTHS = {'robot0_eef_pos': 3, 'robot0_eef_quat': 4, 'robot0_gripper_qpos': 2}
OBJECT_WIDTHS = {'lift': 10, 'can': 14, 'square': 14}
HUMAN, SCRIPTED = ('mh', 'ph'), 'scripted'
ACTION_DIM = 7
SUFFIX = '.hdf5'

_TASKS = '{' + ','.join(SIMULATED) + '}'
ENV_NAMES = f'{_TASKS}-{{mh,ph,scripted}}-low_dim'
DATASET_NAMES = f'{_TASKS}-scripted-low_dim'

_NAME = re.compile(rf'({"|".join(SIMULATED)})-({"|".join((*HUMAN, SCRIPTED))})-low_dim')


@dataclass(frozen=True)
class RobomimicTask:
    """A parsed name such as 'lift-mh-low_dim'.

    Attributes:
        task: 'lift', 'can' or 'square'.
        kind: of demonstrations: 'mh' (multi-human), 'ph' (proficient-human) or 'scripted'.
    """

    task: str
    kind: str

    @property
    def dataset(self) -> str:
        """The name of the data, which is also that of the environment."""
        return f'{self.task}-{self.kind}-low_dim'

    @property
    def simulated(self) -> str:
        """The task's name in robosuite, such as 'PickPlaceCan'."""
        return SIMULATED[self.task]

    @property
    def limit(self) -> int:
        """The number of steps after which an episode is truncated."""
        return LIMITS[self.task]

    @property
    def widths(self) -> dict[str, int]:
        """The components of an observation in order, and the size of each."""
        return {**ARM_WIDTHS, 'object': OBJECT_WIDTHS[self.task]}

    @property
    def columns(self) -> dict[str, slice]:
        """The columns of each component in an observation."""
        sizes = self.widths.items()
        ends = itertools.accumulate(self.widths.values())
        return {key: slice(end - n, end) for (key, n), end in zip(sizes, ends, strict=True)}

    @property
    def observation_dim(self) -> int:
        """d_s."""
        return sum(self.widths.values())


def parse(name: str) -> RobomimicTask | None:
    """Parses a name such as 'lift-mh-low_dim'; None if unknown."""
    match = _NAME.fullmatch(name)
    return match and RobomimicTask(match[1], match[2])
