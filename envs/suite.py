"""What a suite of tasks is: one object that says all in which it differs from other suites.

A new suite subclasses `Suite`. It names its tasks, makes its environments and finds its data. With
a script, data can be collected, too. Everything else is shared. Importing a suite's module should
be quick: import simulators inside the methods.
"""

import builtins
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

from utils.errors import UserError

if TYPE_CHECKING:  # importing them takes longer than all of this
    from pathlib import Path

    import gymnasium
    import numpy as np

    from envs.datasets import DataRequest, Dataset

Value = bool | int | float | str | None


@dataclass(frozen=True)
class Option:
    """A setting of a suite; a flag `--<name>` of main.py.

    Attributes:
        name: of the flag and of the keyword argument.
        default: its value where none is given.
        help: what it does.
        choices: the values it may have; by default all of its type.
        type: bool, int, float or str; by default that of `default`, which must not be None then.
        decides_result: whether another value may change what a run learns. False for where files
            lie and the like.
    """

    name: str
    default: Value
    help: str
    choices: tuple[str, ...] | None = None
    type: builtins.type[Any] = None  # type: ignore[assignment]
    decides_result: bool = True

    def __post_init__(self) -> None:
        if self.type is None:
            if self.default is None:
                raise UserError(f'Option {self.name}: its default is None, so it needs a type')
            object.__setattr__(self, 'type', builtins.type(self.default))
        if self.type not in (bool, int, float, str):
            raise UserError(
                f'Option {self.name}: type {self.type.__name__}; must be bool, int, float or str'
            )

    def check(self, value: Any) -> Value:
        """Returns `value` in the option's type; an int will do for a float.

        Raises:
            UserError: wrong type or not one of `choices`.
        """
        if value is None and self.default is None:
            return None
        if self.type is float and builtins.type(value) is int:
            value = float(value)
        if builtins.type(value) is not self.type:  # a bool is no int here
            raise UserError(f'--{self.name}={value}: must be of type {self.type.__name__}')
        if self.choices is not None and value not in self.choices:
            raise UserError(
                f'--{self.name}={value}: must be one of {", ".join(self.choices)} ({self.help})'
            )
        return value


@dataclass(frozen=True)
class Task:
    """What the name of an environment says.

    Attributes:
        env_name: such as 'cube-double-play-singletask-task2-v0'.
        suite: it belongs to.
        dataset: name of its offline data, such as 'cube-double-play-v0'.
        details: whatever the suite wants to remember.
    """

    env_name: str
    suite: 'Suite'
    dataset: str
    details: Any = None


class Part(NamedTuple):
    """Numbers that stand beside each other in an observation or an action.

    Attributes:
        name: what they are.
        size: how many.
        unit: of each, with the scale if the environment scales them.
    """

    name: str
    size: int
    unit: str


@dataclass(frozen=True)
class Interface:
    """What a robot and a policy exchange, for those who build the robot's side.

    Attributes:
        observation: its parts, in order.
        action: its parts, in order; units are those of ±1.
        control_rate: actions per second (Hz).
    """

    observation: tuple[Part, ...] = ()
    action: tuple[Part, ...] = ()
    control_rate: float | None = None


class Script(Protocol):
    """A scripted policy in an environment of its own."""

    def play(self, seed: tuple[int, ...]) -> 'dict[str, np.ndarray]':
        """Plays one episode, which `seed` alone decides.

        Args:
            seed: non-negative integers that name the episode.

        Returns:
            What a data file holds of it: arrays [R, ...] with any R ≥ 2 that may differ between
            episodes. The last row is the final state; `terminals` [R] bool is True there alone.
            Arrays [] are facts about the episode, for a suite that writes files of its own.
        """
        ...


class Suite:
    """Base of all suites.

    Attributes:
        name: such as 'ogbench'.
        names: which environments there are, for the error of an unknown one.
        dataset_names: the same for data that can be collected.
        options: its settings.
        dataset_dir: where collected data goes unless told otherwise.
        file_suffix: of collected files.
        preload: modules that its environments need, imported once for all simulators' processes.
        score: what an episode is judged by: 'success' at its last step, 'success_once', at any of
            its steps, or the 'return'. Where an environment's info says nothing of success it is
            the return anyway.
    """

    name: str = ''
    names: str = ''
    dataset_names: str = ''
    options: Sequence[Option] = ()
    dataset_dir: str | None = None
    file_suffix: str = '.npz'
    preload: Sequence[str] = ()
    score: Literal['success', 'success_once', 'return'] = 'success'

    def parse(self, env_name: str) -> Task | None:
        """Returns the task that a name describes, or None if the suite has no such environment."""
        raise NotImplementedError

    def make_env(self, task: Task, *, render: bool = False, **options) -> 'gymnasium.Env':
        """Makes an environment.

        Its observations are a Box of any shape or a Dict of Boxes, its actions [d_a] within finite
        bounds of any size, and the info of an episode's last step may have 'success' (bool), also
        called 'is_success'. `reset(seed=s)` should decide all of the episode that follows but the
        actions: then a run continues by playing the open episode's actions again.

        Args:
            task: of `parse`.
            render: whether `env.render()` shall return images [H, W, 3] uint8.
            options: values of all of the suite's `options`, also of those for the data only.
        """
        raise NotImplementedError

    def make_dataset(self, task: Task, *, request: 'DataRequest', **options) -> 'Dataset':
        """Finds, downloads or collects the offline data of a task; see `envs.make_dataset`.

        Args:
            task: of `parse`.
            request: what is wanted, and how it may be made.
            options: values of all of the suite's `options`, also of those for environments only.
        """
        raise NotImplementedError

    def interface(self, task: Task, **options) -> Interface:
        """Returns what the environment's observations and actions mean, as far as is known.

        Args:
            task: of `parse`.
            options: values of all of the suite's `options`.
        """
        return Interface()

    def parse_dataset(self, name: str) -> Any | None:
        """Returns what a data set's name says, or None if the suite cannot collect such data."""
        return None

    def make_script(self, dataset_name: str) -> Script:
        """Makes the scripted policy that collects a data set, in the process that plays."""
        raise UserError(f'{dataset_name}: suite {self.name} has no script to collect data with')

    def write_episodes(
        self, path: 'Path', dataset_name: str, episodes: 'list[dict[str, np.ndarray]]'
    ) -> None:
        """Writes a file of collected episodes, and may empty them; by default an .npz file."""
        from envs.npz import write_npz

        write_npz(path, episodes)

    def collection_details(self, dataset_name: str) -> dict[str, Any]:
        """Returns what else a collection's manifest shall say (versions, noise), ready for JSON."""
        return {}

    @property
    def reference(self) -> str | None:
        """'module:attribute', from which other processes can import this object, or None.

        It must be an attribute of the module that its class is in. That must not be the main
        program, which other processes cannot import.
        """
        module_name = type(self).__module__
        if module_name == '__main__':
            return None
        for name, value in vars(sys.modules[module_name]).items():
            if value is self:
                return f'{module_name}:{name}'
        return None

    def __reduce_ex__(self, protocol):
        # Unpickling imports the module and takes the object from there, so that there is only one.
        if self.reference is None:
            return super().__reduce_ex__(protocol)
        return self.reference.split(':')[1]
