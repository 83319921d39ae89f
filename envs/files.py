"""Data files on disk: their names, and the manifests of collections."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from envs.npz import DatasetError, bad_file


def find_files(directory: Path, name: str, suffix: str = '.npz') -> list[Path]:
    """The training files of `name` in `directory` or its subdirectory `name`, see `files_in`."""
    return files_in(directory, [name], suffix) or files_in(directory / name, [name], suffix)


def files_in(folder: Path, names: Sequence[str], suffix: str = '.npz') -> list[Path]:
    """The training files in a folder: <name><suffix> of the first name, or shards of any, in order.

    A missing shard among others is in the list, too; reading it is an error.
    """
    if (path := folder / f'{names[0]}{suffix}').exists():
        return [path]
    either = '|'.join(map(re.escape, names))
    pattern = re.compile(rf'({either})-([0-9]{{3,4}}){re.escape(suffix)}')
    found = [match for path in folder.glob(f'*{suffix}') if (match := pattern.fullmatch(path.name))]
    shards = {int(match[2]): folder / match[0] for match in found}
    return [
        shards.get(number, folder / f'{found[0][1]}-{number:03d}{suffix}')
        for number in range(max(shards, default=-1) + 1)
    ]


def read_manifest(paths: Sequence[Path], name: str) -> dict[str, Any] | None:
    """Returns the manifest of the files `paths` by `envs.collect`, None if it did not make them.

    Args:
        paths: files in one folder; missing ones are not compared.
        name: of the data.

    Returns:
        The collection's arguments, 'episodes' and 'seed' among them, and 'bytes', the files' sizes.

    Raises:
        DatasetError: the manifest is unreadable or describes other files.
    """
    path = paths[0].parent / f'{name}.json'
    fix = 'delete the manifest if you replaced the collected files, or all of them to collect again'
    try:
        manifest = json.loads(path.read_text('utf-8'))
        sizes, _, _ = manifest['bytes'], manifest['episodes'], manifest['seed']
    except FileNotFoundError:
        return None
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise bad_file(path, f'not the manifest of a collection ({error!r})', fix) from error
    found = {p.name: p.stat().st_size for p in paths if p.exists()}
    if wrong := sorted(file for file, size in found.items() if sizes.get(file) != size):
        what = f'does not match the files (added or of another size: {", ".join(wrong)})'
        raise DatasetError(f'{path}: {what}; {fix}')
    return manifest
