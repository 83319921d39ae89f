"""OGBench: manipulation tasks of a robot arm, and offline data from a scripted arm.

Source: OGBench (arXiv 2410.20092), package `ogbench`.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from envs.ogbench.names import DATASET_NAMES, ENV_NAMES, parse_dataset, parse_task
from envs.suite import Interface, Option, Script, Suite, Task

if TYPE_CHECKING:
    import gymnasium

    from envs.datasets import DataRequest, Dataset


class OGBench(Suite):
    """The manipulation tasks."""

    name = 'ogbench'
    names = ENV_NAMES
    dataset_names = DATASET_NAMES
    options = (
        Option('sparse', False, 'Turn any non-zero reward into -1.'),
        Option(
            'success_timing',
            'pre',
            'OGBench: judge the state before (pre) or after (post) the action.',
            choices=('pre', 'post'),
        ),
        Option(
            'ogbench_dataset_dir',
            None,
            'OGBench: folder of the data; default: ~/.ogbench/data.',
            type=str,
            decides_result=False,
        ),
    )
    dataset_dir = '~/.ogbench/data'
    preload = ('envs.ogbench.tasks',)

    def parse(self, env_name: str) -> Task | None:
        details = parse_task(env_name)
        return None if details is None else Task(env_name, self, details.dataset, details)

    def make_env(
        self,
        task: Task,
        *,
        render: bool = False,
        sparse: bool = False,
        success_timing: str = 'pre',
        **options,
    ) -> 'gymnasium.Env':
        from envs.ogbench import tasks

        return tasks.make_env(task.details, sparse, success_timing, render)

    def make_dataset(
        self,
        task: Task,
        *,
        request: 'DataRequest',
        sparse: bool = False,
        ogbench_dataset_dir: str | None = None,
        **options,
    ) -> 'Dataset':
        from envs.ogbench import data

        directory = ogbench_dataset_dir or self.dataset_dir or '.'
        return data.make_dataset(task.details, Path(directory).expanduser(), request, sparse)

    def interface(self, task: Task, **options) -> Interface:
        from envs.ogbench.interface import describe

        return describe(task.details.scene)

    def parse_dataset(self, name: str) -> str | None:
        return parse_dataset(name)

    def make_script(self, dataset_name: str) -> Script:
        from envs.ogbench import scripts

        return scripts.PlayScript(dataset_name)

    def collection_details(self, dataset_name: str) -> dict[str, Any]:
        from envs.ogbench import scripts

        return scripts.details(dataset_name)


suite = OGBench()
