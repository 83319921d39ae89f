"""Robomimic's data: paths, downloads and collection.

Human demonstrations are <directory>/<task>/<kind>/low_dim_v15.hdf5, as published by robomimic.
Scripted ones are <directory>/<task>-scripted-low_dim.hdf5.
"""

import functools
import os
from pathlib import Path
from typing import Any

import h5py

from envs import datasets
from envs.datasets import DataRequest, Dataset, DatasetError
from envs.downloads import download_file, hash_file
from envs.robomimic import files
from envs.robomimic.names import SCRIPTED, SUFFIX, RobomimicTask
from utils.errors import UserError

FILE = 'low_dim_v15.hdf5'
URL = 'https://huggingface.co/datasets/robomimic/robomimic_datasets/resolve/main/v1.5'
SCRIPTED_EPISODES = 200


def make_dataset(task: RobomimicTask, directory: Path, request: DataRequest) -> Dataset:
    """Finds, downloads or collects the data of a task; see `envs.make_dataset`.

    Args:
        task: of the data.
        directory: of the files.
        request: which data; by default SCRIPTED_EPISODES are collected.
    """
    if task.kind == SCRIPTED:
        paths, provenance = datasets.obtain(
            task.dataset,
            directory,
            request,
            num_episodes=SCRIPTED_EPISODES,
            download=functools.partial(_refuse_download, task, directory),
            manifest_keys=('episodes', 'seed', 'robosuite'),
            find=functools.partial(datasets.find_files, suffix=SUFFIX),
        )
    else:
        paths, provenance = _obtain_public(task, directory, request.source)
    num_rows = tuple(files.check_file(path, task) for path in paths)
    read_shard = functools.partial(files.read_file, task=task)
    return Dataset(task.dataset, tuple(paths), num_rows, provenance, read_shard)


def find_env_args(task: RobomimicTask, directory: Path) -> dict[str, Any]:
    """Returns the environment's settings from the data on disk.

    Without a file, these are the known settings of the public data.

    Raises:
        DatasetError: the file lacks them, or is of another task.
    """
    if paths := find_files(task, directory):
        return files.read_env_args(paths[0], task)
    return files.default_env_args(task)


def find_files(task: RobomimicTask, directory: Path) -> list[Path]:
    """Returns the files of a task in `directory`: none, one, or the shards of a collection."""
    if task.kind == SCRIPTED:
        return datasets.find_files(directory, task.dataset, SUFFIX)
    path = public_path(task, directory)
    return [path] if path.exists() else []


def public_path(task: RobomimicTask, directory: Path) -> Path:
    """Returns the path of the human demonstrations."""
    return directory / task.task / task.kind / FILE


def collect_command(task: RobomimicTask, directory: Path) -> str:
    """Returns the command to collect scripted demonstrations of the same task."""
    name = RobomimicTask(task.task, SCRIPTED).dataset
    arguments = datasets.collect_arguments(name, SCRIPTED_EPISODES, save_dir=directory)
    return datasets.as_command(arguments)


def _refuse_download(task: RobomimicTask, directory: Path) -> str:
    raise DatasetError(
        f'{directory.absolute() / task.dataset}{SUFFIX}: not found, and scripted data is not '
        f'published; collect it with --dataset_source=collect, or: '
        f'{collect_command(task, directory)}'
    )


def _obtain_public(
    task: RobomimicTask, directory: Path, source: str
) -> tuple[list[Path], dict[str, Any]]:
    """Finds or downloads human demonstrations; returns the file and its provenance."""
    scripted = RobomimicTask(task.task, SCRIPTED).dataset
    if source == 'collect':
        raise UserError(
            f'--dataset_source=collect: {task.dataset} are human demonstrations; use '
            f'--env_name={scripted} for scripted ones'
        )
    path, made = public_path(task, directory), {'source': 'on disk'}
    if not path.exists() and source == 'here':
        raise DatasetError(f'{path}: is not there')
    if not path.exists():
        url = f'{os.environ.get("ROBOMIMIC_DATASET_URL", URL)}/{task.task}/{task.kind}/{FILE}'
        made = {'source': 'downloaded', 'url': url}
        download_file(
            [url],
            path,
            f'copy the file to {path.absolute()} by hand, or use --env_name={scripted} after: '
            f'{collect_command(task, directory)}',
            _verify,
        )
        if files.read_env_args(path, task) != files.default_env_args(task):
            # Environments made before the download have the default settings.
            raise UserError(
                f'{path}: downloaded, but its environment differs from the default; start the same '
                'command again'
            )
    made |= {'directory': str(path.parent), 'files': [path.name], 'sha256': hash_file(path)}
    return [path], made


def _verify(path: Path) -> None:
    with h5py.File(path, 'r', locking=False):  # raises if it is not HDF5 or truncated
        pass
