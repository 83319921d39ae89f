"""Downloads data files, with resume, one process at a time, and a check before use."""

import contextlib
import http.client
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable
from pathlib import Path

from tqdm import tqdm

from envs import locks
from envs.npz import DAMAGE
from utils.errors import UserError


def download_file(
    url: str, path: Path, otherwise: str, verify: Callable[[Path], None] | None = None
) -> Path:
    """Downloads a file; it appears at `path` only once it is complete and intact.

    Until then its beginning is in `<path>.part`. If the connection breaks or this process is
    killed, the next download resumes from there. While another process downloads or collects data
    of that name, this one waits and uses that file.

    Args:
        url: of the file.
        path: destination; missing directories are created.
        otherwise: alternative for the user, for the error.
        verify: raises OSError for a damaged file; by default for .npz files.

    Returns:
        The path.

    Raises:
        UserError: the download failed.
    """
    part = path.with_name(f'{path.name}.part')
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with locks.hold(path.with_suffix('.lock'), part):
            if not path.exists():
                _fetch(url, part)
                try:
                    (verify or _verify_npz)(part)
                except OSError:
                    part.unlink()
                    raise
                part.replace(path)
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = ' '.join(str(error).split()) or type(error).__name__
        raise UserError(f'{url}: download failed ({reason}). Try again, or {otherwise}') from error
    return path


def _fetch(url: str, part: Path) -> None:
    """Fetches the rest of a file; retries as long as each connection brings something."""
    while True:
        before = _size(part)
        try:
            return _fetch_once(url, part)
        except (OSError, http.client.HTTPException):
            if _size(part) <= before:
                raise


def _fetch_once(url: str, part: Path) -> None:
    start = _size(part)
    request = urllib.request.Request(url, headers={'Range': f'bytes={start}-'} if start else {})
    try:
        response = urllib.request.urlopen(request, timeout=60)
    except urllib.error.HTTPError as error:
        if error.code == 416 and start:  # already complete
            return
        raise
    with response:
        if response.status != 206:  # the server sends the whole file
            start = 0
        length = response.headers.get('Content-Length')
        total = None if length is None else start + int(length)
        with (
            part.open('ab' if start else 'wb') as file,
            tqdm(
                initial=start, total=total, desc=url.split('/')[-1], unit='B', unit_scale=True
            ) as bar,
        ):
            while chunk := response.read(1 << 20):
                file.write(chunk)
                bar.update(len(chunk))
    if total is not None and _size(part) != total:
        raise OSError(f'{_size(part)} of {total} bytes arrived')


def _size(path: Path) -> int:
    with contextlib.suppress(FileNotFoundError):
        return path.stat().st_size
    return 0


def _verify_npz(part: Path) -> None:
    try:
        with zipfile.ZipFile(part) as archive:
            damaged = archive.testzip()
    except DAMAGE as error:
        raise OSError(str(error)) from error
    if damaged is not None:
        raise OSError(f'{damaged} is damaged')
