"""Downloads a large file in as many connections as it takes."""

import contextlib
import fcntl
import http.client
import os
import re
import sys
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from tqdm import tqdm

from utils.errors import UserError


def download(url: str, path: Path, verify: Callable[[Path], None], otherwise: str) -> None:
    """Downloads a file; it appears at `path` only once it is complete and intact.

    What has arrived is in `<path>.part` until then. If the connection breaks or this process is
    killed it stays there, and the next download goes on from it. While another process of this
    machine downloads the file, this one waits, and takes its file.

    Args:
        url: of the file.
        path: where it shall be; directories are made if need be.
        verify: raises OSError for a file that is not intact.
        otherwise: what else the user can do, for the error.

    Raises:
        UserError: the download failed.
    """
    part = path.with_name(f'{path.name}.part')
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _open_alone(part, path) as file:
            try:
                if not path.exists():
                    _download(url, file, part, verify)
                    part.replace(path)
            finally:
                if not _size(file) or path.exists():
                    part.unlink(missing_ok=True)
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = ' '.join(str(error).split()) or type(error).__name__
        raise UserError(f'{url}: download failed ({reason}). Try again, or {otherwise}') from error


def _open_alone(part: Path, path: Path) -> BinaryIO:
    """Opens an unfinished file once no other process has it open."""
    while True:
        file = part.open('ab')
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f'Waiting for another process that downloads {path}', file=sys.stderr, flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        with contextlib.suppress(FileNotFoundError):  # the other one may have removed it
            if os.path.samestat(os.fstat(file.fileno()), part.stat()):
                return file
        file.close()


def _download(url: str, file: BinaryIO, part: Path, verify: Callable[[Path], None]) -> None:
    is_continued = _size(file) > 0
    _fetch(url, file)
    try:
        verify(part)
    except OSError:
        file.truncate(0)
        if not is_continued:  # else what was there may have been of another file
            raise
        _fetch(url, file)
        verify(part)


def _size(file: BinaryIO) -> int:
    return os.fstat(file.fileno()).st_size


def _fetch(url: str, file: BinaryIO) -> None:
    """Fetches the rest of a file; goes on as long as each connection brings something."""
    while True:
        before = _size(file)
        try:
            _fetch_once(url, file)
            return
        except urllib.error.HTTPError:
            raise
        except (OSError, http.client.HTTPException):
            if _size(file) <= before:
                raise


def _fetch_once(url: str, file: BinaryIO) -> None:
    start = _size(file)
    headers = {'Range': f'bytes={start}-'} if start else {}
    try:
        response = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=60)
    except urllib.error.HTTPError as error:
        if error.code != 416 or not start:  # 416: nothing comes after `start`
            raise
        if error.headers.get('Content-Range') != f'bytes */{start}':
            file.truncate(0)
            _fetch_once(url, file)
        return
    with response:
        span = re.fullmatch(r'bytes (\d+)-\d+/(\d+)', response.headers.get('Content-Range') or '')
        if span and int(span[1]) == start:
            expected = int(span[2])
        else:  # the server sends all of it
            start = 0
            file.truncate(0)
            length = response.headers.get('Content-Length')
            expected = None if length is None else int(length)
        name = url.rsplit('/', 1)[-1]
        with tqdm(initial=start, total=expected, desc=name, unit='B', unit_scale=True) as bar:
            while chunk := response.read(1 << 20):
                file.write(chunk)
                file.flush()
                bar.update(len(chunk))
    if expected is not None and _size(file) != expected:
        raise OSError(f'{_size(file)} of {expected} bytes arrived')
