"""The interface of a suite of tasks.

A suite subclasses `Suite`: it parses the names of its tasks, makes their environments and finds
their data. With a scripted policy, data can be collected, too. Everything else is shared. Importing
a suite's module should be quick: import simulators inside the methods.
"""

import builtins
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

from utils.errors import UserError

if TYPE_CHECKING:  # these imports are slow
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
        default: its default value.
        help: of the flag.
        choices: the allowed values; by default all of its type.
        type: bool, int, float or str; by default that of `default`, which must not be None then.
        decides_result: whether its value may change what a run learns. False for folders and the
            like.
    """

    name: str
    default: Value
    help: str
    choices: tuple[str, ...] | None = None
    type: builtins.type[Any] = None  # type: ignore[assignment]
    decides_result: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, 'type', self.type or builtins.type(self.default))
        if self.type not in (bool, int, float, str):
            raise UserError(f'Option {self.name}: its type must be bool, int, float or str')

    def check(self, value: Any) -> Value:
        """Returns `value` in the option's type; an int is accepted for a float.

        Raises:
            UserError: the type is wrong, or the value is not one of `choices`.
        """
        if value is None and self.default is None:
            return None
        if self.type is float and builtins.type(value) is int:
            value = float(value)
        if builtins.type(value) is not self.type:  # a bool does not count as an int
            raise UserError(f'--{self.name}={value}: must be of type {self.type.__name__}')
        if self.choices is not None and value not in self.choices:
            raise UserError(
                f'--{self.name}={value}: must be one of {", ".join(self.choices)} ({self.help})'
            )
        return value


@dataclass(frozen=True)
class Task:
    """A parsed environment name.

    Attributes:
        env_name: such as 'cube-double-play-singletask-task2-v0'.
        suite: of the task.
        dataset: name of its offline data, such as 'cube-double-play-v0'.
        details: for the suite's own use.
    """

    env_name: str
    suite: 'Suite'
    dataset: str
    details: Any = None


class Component(NamedTuple):
    """A slice of an observation or an action vector.

    Attributes:
        name: of the quantity.
        size: how many numbers.
        unit: of each, including the environment's scale.
    """

    name: str
    size: int
    unit: str


@dataclass(frozen=True)
class Interface:
    """The interface between a robot and a policy.

    Attributes:
        observation: its components, in order.
        action: its components, in order; units are those of ±1.
        control_rate: actions per second (Hz).
        action_range: the environment's own lowest and highest action, if all components have the
            same; None: an environment knows.
    """

    observation: tuple[Component, ...] = ()
    action: tuple[Component, ...] = ()
    control_rate: float | None = None
    action_range: tuple[float, float] | None = None


class ScriptedPolicy(Protocol):
    """A scripted policy with its own environment."""

    def play(self, seed: tuple[int, ...]) -> 'dict[str, np.ndarray]':
        """Plays one episode, determined by `seed`.

        Args:
            seed: non-negative integers that identify the episode.

        Returns:
            Arrays [R, ...] for the data file, where R ≥ 2 may differ between episodes. The last row
            is the final state; `terminals` [R] bool is True only there. Arrays [] describe the
            whole episode, for a suite that writes its own files.
        """
        ...


class Suite:
    """Base of all suites.

    Attributes:
        name: such as 'ogbench'.
        names: environments in words, shown when an environment is unknown.
        dataset_names: the same for data that can be collected.
        options: its settings.
        dataset_dir: default folder of collected data.
        file_suffix: of collected files.
        preload: modules that its environments need, imported once for all simulator processes.
        score: what an episode is judged by: 'success' at its last step, 'success_once', at any
            step, or 'return'. If the environment does not tell success, it is the return.
    """

    name: str = ''
    names: str = ''
    dataset_names: str = ''
    options: Sequence[Option] = ()
    dataset_dir: str = '.'
    file_suffix: str = '.npz'
    preload: Sequence[str] = ()
    score: Literal['success', 'success_once', 'return'] = 'success'

    def parse(self, env_name: str) -> Task | None:
        """Parses the name of an environment; returns None if it is not one of this suite."""
        raise NotImplementedError

    def make_env(self, task: Task, *, render: bool = False, **options) -> 'gymnasium.Env':
        """Makes an environment.

        Its observations are a Box of any shape or a Dict of Boxes, its actions [d_a] have finite
        bounds, and the info of an episode's last step may have 'success' (bool) or 'is_success'.
        `reset(seed=s)` should determine the episode except for the actions: then a run resumes by
        replaying the open episode's actions.

        Args:
            task: from `parse`.
            render: whether `env.render()` returns images [H, W, 3] uint8.
            options: values of all of the suite's `options`, including those for the data only.
        """
        raise NotImplementedError

    def make_dataset(self, task: Task, *, request: 'DataRequest', **options) -> 'Dataset':
        """Finds, downloads or collects the offline data of a task; see `envs.make_dataset`.

        Args:
            task: from `parse`.
            request: which data, and how to make it.
            options: values of all of the suite's `options`, including those for environments only.
        """
        raise NotImplementedError

    def interface(self, task: Task, **options) -> Interface:
        """Returns the meaning of the environment's observations and actions, as far as known.

        Args:
            task: from `parse`.
            options: values of all of the suite's `options`.
        """
        return Interface()

    def parse_dataset(self, name: str) -> Any | None:
        """Parses a data set's name; returns None if the suite cannot collect such data."""
        return None

    def make_scripted_policy(self, dataset_name: str) -> ScriptedPolicy:
        """Makes the scripted policy for a data set, in the process that plays."""
        raise UserError(f'{dataset_name}: suite {self.name} has no scripted policy')

    def write_episodes(
        self, path: 'Path', dataset_name: str, episodes: 'list[dict[str, np.ndarray]]'
    ) -> None:
        """Writes a file of collected episodes, and may empty them; by default an .npz file."""
        import numpy as np

        keys = list(episodes[0])  # each array is popped, so that it is in memory only once
        arrays: Any = {key: np.concatenate([x.pop(key) for x in episodes]) for key in keys}
        np.savez(path, **arrays)

    def collection_details(self, dataset_name: str) -> dict[str, Any]:
        """Returns more entries for a collection's manifest (versions, noise), ready for JSON."""
        return {}

    def __reduce_ex__(self, protocol):
        # Unpickling imports the object from its class's module, so that there is only one.
        module = type(self).__module__
        if module != '__main__':
            for name, value in vars(sys.modules[module]).items():
                if value is self:
                    return name
        return super().__reduce_ex__(protocol)
