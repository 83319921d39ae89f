"""Downloads data files: one process at a time, from where it stopped, checked before it is used."""

import contextlib
import http.client
import re
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable
from pathlib import Path

from tqdm import tqdm

from envs import locks
from envs.npz import DAMAGE, DatasetError
from utils.errors import UserError


def download_file(
    url: str, path: Path, otherwise: str, verify: Callable[[Path], None] | None = None
) -> Path:
    """Downloads a file; it appears at `path` only once it is complete and intact.

    What has arrived is in `<path>.part` until then. If the connection breaks or this process is
    killed, it stays there, and the next download goes on from it. While another process downloads
    or collects data of that name, this one waits, and takes its file.

    Args:
        url: of the file.
        path: where it shall be; directories are made if need be.
        otherwise: what else the user can do, for the error.
        verify: raises OSError for a file that is not intact; by default that of .npz files.

    Returns:
        The path.

    Raises:
        DatasetError: a collection's manifest is in the way.
        UserError: the download failed.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with locks.hold(path.with_suffix('.lock'), path.with_name(f'{path.name}.part')):
            if not path.exists():
                if (manifest := path.with_suffix('.json')).exists():
                    raise DatasetError(
                        f'{manifest}: left over from a collection that is gone; delete it'
                    )
                _download(url, path, verify or _verify_npz)
    except UserError:
        raise
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = ' '.join(str(error).split()) or type(error).__name__
        raise UserError(f'{url}: download failed ({reason}). Try again, or {otherwise}') from error
    return path


def _download(url: str, path: Path, verify: Callable[[Path], None]) -> None:
    part = path.with_name(f'{path.name}.part')
    while True:
        is_continued = _size(part) > 0
        _fetch(url, part)
        try:
            verify(part)
            break
        except OSError:
            part.unlink()
            if not is_continued:  # else it may have been the beginning of another file
                raise
    part.replace(path)


def _fetch(url: str, part: Path) -> None:
    """Fetches the rest of a file; goes on as long as each connection brings something."""
    while True:
        before = _size(part)
        try:
            return _fetch_once(url, part)
        except urllib.error.HTTPError:
            raise
        except (OSError, http.client.HTTPException):
            if _size(part) <= before:
                raise


def _fetch_once(url: str, part: Path) -> None:
    start = _size(part)
    request = urllib.request.Request(url)
    if start:
        request.add_header('Range', f'bytes={start}-')
    try:
        response = urllib.request.urlopen(request, timeout=60)
    except urllib.error.HTTPError as error:
        if error.code != 416 or not start:  # 416: there is nothing from `start` on
            raise
        error.close()
        if error.headers.get('Content-Range') != f'bytes */{start}':
            part.unlink()
            _fetch_once(url, part)
        return
    with response:
        span = re.fullmatch(r'bytes (\d+)-\d+/(\d+)', response.headers.get('Content-Range') or '')
        expected = None
        if span and int(span[1]) == start:
            expected = int(span[2])
        else:  # the server sends all of it
            start = 0
            if (length := response.headers.get('Content-Length')) is not None:
                expected = int(length)
        with (
            part.open('ab' if start else 'wb') as file,
            tqdm(
                initial=start, total=expected, desc=url.split('/')[-1], unit='B', unit_scale=True
            ) as bar,
        ):
            while chunk := response.read(1 << 20):
                file.write(chunk)
                bar.update(len(chunk))
    if expected is not None and _size(part) != expected:
        raise OSError(f'{_size(part)} of {expected} bytes arrived')


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
