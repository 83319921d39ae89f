"""Downloads all files of an OGBench data set, training and validation, 100M data included.

    python -m envs.download --dataset=cube-quadruple-play-100m-v0

Existing files are kept, and an interrupted download resumes.
"""

import re
import shutil
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from absl import flags

from envs.downloads import TIMEOUT, size_at, size_of, try_each
from envs.ogbench import data, suite
from envs.ogbench.names import is_large, scene_of
from envs.programs import run
from utils.errors import UserError

LATER = 'start the same command again later'


def addresses(name: str) -> dict[str, list[str]]:
    """Returns the files of a data set, each with the URLs to try in order.

    Raises:
        UserError: the data set is unknown, or no server lists its files.
    """
    scene_of(name)
    hosts = data.hosts(name)
    if is_large(name):
        return try_each([f'{host}/{name}/' for host in hosts], _listed, LATER)
    files = (f'{name}.npz', f'{name}-val.npz')
    return {file: [f'{host}/{file}' for host in hosts] for file in files}


def _listed(folder: str) -> dict[str, list[str]]:
    with urllib.request.urlopen(folder, timeout=TIMEOUT) as response:
        files = sorted(set(re.findall(r'href="([^"/]+\.npz)"', response.read().decode())))
    if not files:
        raise OSError('lists no .npz files')
    return {file: [folder + file] for file in files}


def download(name: str, directory: Path) -> None:
    """Downloads the missing files of a data set, and first prints their number and total size.

    Args:
        name: such as 'cube-quadruple-play-100m-v0'.
        directory: destination; 100M data gets a folder of its own there.

    Raises:
        UserError: the data set is unknown, the disk too small, or a download failed.
    """
    files = addresses(name)
    if is_large(name) and directory.name != name:
        directory /= name
    directory.mkdir(parents=True, exist_ok=True)
    missing = {file: urls for file, urls in files.items() if not (directory / file).exists()}
    with ThreadPoolExecutor(8) as pool:
        left = sum(pool.map(lambda urls: try_each(urls, size_at, LATER), missing.values()))
    left -= sum(size_of(directory / f'{file}.part') for file in missing)
    print(f'{name}: {len(files)} files, {len(missing)} of them missing, {left / 1e9:.1f} GB '
          f'to download into {directory}', flush=True)  # fmt: skip
    if left > (free := shutil.disk_usage(directory).free):
        raise UserError(f'{directory}: only {free / 1e9:.1f} GB free; choose another --save_dir')
    for file, urls in missing.items():
        data.download_to(directory / file, urls, name)


if __name__ == '__main__':
    flags.DEFINE_string('dataset', None, 'Such as cube-double-play-v0.', required=True)
    flags.DEFINE_string('save_dir', suite.dataset_dir, 'Where the files go.')
    run(
        lambda: download(flags.FLAGS.dataset, Path(flags.FLAGS.save_dir).expanduser()),
        'Interrupted. The same command resumes the download.',
    )
