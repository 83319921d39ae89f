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
from envs.datasets import DataRequest, Dataset
from envs.downloads import download_file
from envs.npz import DatasetError
from envs.robomimic import files
from envs.robomimic.names import SCRIPTED, SUFFIX, RobomimicTask
from envs.suite import Suite
from utils.errors import UserError

FILE = 'low_dim_v15.hdf5'
URL = 'https://huggingface.co/datasets/robomimic/robomimic_datasets/resolve/main/v1.5'
SCRIPTED_EPISODES = 200


def make_dataset(
    suite: Suite, task: RobomimicTask, directory: Path, request: DataRequest
) -> Dataset:
    """Finds, downloads or collects the data of a task; see `envs.make_dataset`.

    Args:
        suite: of the task.
        task: of the data.
        directory: of the files.
        request: which data; by default SCRIPTED_EPISODES are collected.
    """
    scripted = RobomimicTask(task.task, SCRIPTED).dataset
    if task.kind != SCRIPTED and request.source == 'collect':
        what = f'{task.dataset} are human demonstrations; scripted ones: --env_name={scripted}'
        raise UserError(f'--dataset_source=collect: {what}')
    fetch = functools.partial(_download, task, directory)
    find = lambda *_: find_files(task, directory)  # noqa: E731
    paths, provenance = datasets.obtain(
        suite, task.dataset, directory, request, fetch, SCRIPTED_EPISODES, find=find
    )
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


def _download(task: RobomimicTask, directory: Path) -> str:
    """Downloads human demonstrations; returns their URL."""
    if task.kind == SCRIPTED:
        what = 'not found, and scripted data is not published; collect it: --dataset_source=collect'
        raise DatasetError(f'{directory.absolute() / task.dataset}{SUFFIX}: {what}')
    path = public_path(task, directory)
    url = f'{os.environ.get("ROBOMIMIC_DATASET_URL", URL)}/{task.task}/{task.kind}/{FILE}'
    otherwise = f'copy the file to {path.absolute()} by hand, or use scripted demonstrations: '
    otherwise += f'--env_name={task.task}-scripted-low_dim --dataset_source=collect'
    download_file([url], path, otherwise, _verify)
    if files.read_env_args(path, task) != files.default_env_args(task):
        # Environments made before the download have the default settings.
        what = 'downloaded, but its environment differs from the default'
        raise UserError(f'{path}: {what}; start the same command again')
    return url


def _verify(path: Path) -> None:
    with h5py.File(path, 'r', locking=False):  # raises if it is not HDF5 or truncated
        pass
