"""OGBench: manipulation tasks of a robot arm, and offline data from a scripted arm.

Source: OGBench (arXiv 2410.20092), package `ogbench`.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from envs.ogbench.interface import describe
from envs.ogbench.names import DATASET_NAMES, ENV_NAMES, parse_dataset, parse_task
from envs.suite import Interface, Option, ScriptedPolicy, Suite, Task

if TYPE_CHECKING:
    import gymnasium

    from envs.datasets import Dataset


class OGBench(Suite):
    """The manipulation tasks."""

    name = 'ogbench'
    names = ENV_NAMES
    dataset_names = DATASET_NAMES
    options = (
        Option('sparse', False, 'Turn any non-zero reward into -1.'),
        Option('success_timing', 'pre', 'OGBench: judge the state before (pre) or after (post) the '
               'action.', ('pre', 'post')),
        Option('ogbench_dataset_dir', None, 'OGBench: folder of the data; default: '
               '~/.ogbench/data.', type=str, decides_result=False),
    )  # fmt: skip
    dataset_dir = '~/.ogbench/data'
    preload = ('envs.ogbench.tasks',)

    def parse(self, env_name: str) -> Task | None:
        details = parse_task(env_name)
        return None if details is None else Task(env_name, self, details.dataset, details)

    def make_env(
        self, task: Task, *, render=False, sparse=False, success_timing='pre', **options
    ) -> 'gymnasium.Env':
        from envs.ogbench import tasks

        return tasks.make_env(task.details, sparse, success_timing, render)

    def make_dataset(
        self, task: Task, *, request, sparse=False, ogbench_dataset_dir=None, **options
    ) -> 'Dataset':
        from envs.ogbench import data

        directory = Path(ogbench_dataset_dir or self.dataset_dir).expanduser()
        return data.make_dataset(self, task.details, directory, request, sparse)

    def interface(self, task: Task, **options) -> Interface:
        return describe(task.details.scene)

    def parse_dataset(self, name: str) -> str | None:
        return parse_dataset(name)

    def make_scripted_policy(self, dataset_name: str) -> ScriptedPolicy:
        from envs.ogbench.scripted import ScriptedArm

        return ScriptedArm(dataset_name)

    def collection_details(self, dataset_name: str) -> dict[str, Any]:
        from envs.ogbench.scripted import details

        return details(dataset_name)


suite = OGBench()
