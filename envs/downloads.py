"""Downloads data files: resumes them, checks them, and lets one process at a time do it."""

import contextlib
import hashlib
import http.client
import logging
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from tqdm import tqdm

from envs import locks
from envs.npz import DAMAGE
from utils.errors import UserError

TIMEOUT = 60  # seconds to wait for an answer
T = TypeVar('T')


def verify_npz(part: Path) -> None:
    """Raises OSError for a damaged .npz file."""
    try:
        with zipfile.ZipFile(part) as archive:
            damaged = archive.testzip()
    except DAMAGE as error:
        raise OSError(str(error)) from error
    if damaged is not None:
        raise OSError(f'{damaged} is damaged')


def download_file(
    urls: Sequence[str],
    path: Path,
    otherwise: str,
    verify: Callable[[Path], None] = verify_npz,
    sha256: str | None = None,
) -> str | None:
    """Downloads a file; it appears at `path` only once it is complete and intact.

    Until then `<path>.part` holds what has arrived. If the connection breaks or this process is
    killed, the next download resumes from there, even from another server. While another process
    downloads or collects data of that name, this one waits and then uses that file.

    Args:
        urls: of the file; each is tried only if those before it failed.
        path: destination; missing directories are created.
        otherwise: alternative for the user, for the error.
        verify: raises OSError for a damaged file.
        sha256: of the file, if known.

    Returns:
        The URL that the file came from; None if the file existed.

    Raises:
        UserError: the download failed.
    """
    part = path.with_name(f'{path.name}.part')

    def fetch(url: str) -> str:
        had_some = size_of(part) > 0
        _fetch(url, part)
        try:
            verify(part)
            if sha256 and (found := hash_file(part)) != sha256:
                raise OSError(f'the server sent another file: SHA-256 {found}, not {sha256}')
        except OSError:
            part.unlink()
            if not had_some:
                raise
            return fetch(url)  # the old part was of another file
        part.replace(path)
        return url

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with locks.hold(path.with_suffix('.lock'), part):
            return None if path.exists() else try_each(urls, fetch, otherwise)
    except OSError as error:
        raise UserError(f'{path}: download failed ({error}). Try again, or {otherwise}') from error


def try_each(urls: Sequence[str], action: Callable[[str], T], otherwise: str) -> T:
    """Returns the result of `action` for the first URL for which it succeeds.

    Logs a warning for each failure.

    Args:
        urls: to try in order.
        action: raises OSError or the errors of `urllib`.
        otherwise: alternative for the user, for the error.

    Raises:
        UserError: it fails for all URLs.
    """
    for url, after in zip(urls, [*urls[1:], None], strict=True):
        try:
            return action(url)
        except (OSError, http.client.HTTPException, ValueError) as error:
            reason = ' '.join(str(error).split()) or type(error).__name__
            line = f'{url}: download failed ({reason})'
            if after is None:
                raise UserError(f'{line}. Try again, or {otherwise}') from error
            logging.warning('%s; trying %s', line, after)
    raise UserError(f'no address to download from; {otherwise}')


def hash_file(path: Path) -> str:
    """Returns the SHA-256 of a file, in hexadecimal digits."""
    with path.open('rb') as file:
        return hashlib.file_digest(file, 'sha256').hexdigest()


def size_at(url: str) -> int:
    """Returns the size of a file in bytes, according to its server."""
    with urllib.request.urlopen(
        urllib.request.Request(url, method='HEAD'), timeout=TIMEOUT
    ) as response:
        return int(response.headers['Content-Length'])


def _fetch(url: str, part: Path) -> None:
    """Fetches the rest of a file; retries as long as each attempt makes progress."""
    while True:
        before = size_of(part)
        try:
            return _fetch_once(url, part)
        except (OSError, http.client.HTTPException):
            if size_of(part) <= before:
                raise


def _fetch_once(url: str, part: Path) -> None:
    start = size_of(part)
    request = urllib.request.Request(url, headers={'Range': f'bytes={start}-'} if start else {})
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code == 416 and start:  # already complete
            return
        raise
    with response:
        if response.status != 206:  # the server sends the whole file
            start = 0
        length = response.headers.get('Content-Length')
        total = None if length is None else start + int(length)
        name = url.split('/')[-1]
        bar = tqdm(initial=start, total=total, desc=name, unit='B', unit_scale=True)
        with part.open('ab' if start else 'wb') as file, bar:
            while chunk := response.read(1 << 20):
                file.write(chunk)
                bar.update(len(chunk))
    if total is not None and size_of(part) != total:
        raise OSError(f'{size_of(part)} of {total} bytes arrived')


def size_of(path: Path) -> int:
    """Returns the size of a file in bytes, 0 if it is missing."""
    with contextlib.suppress(FileNotFoundError):
        return path.stat().st_size
    return 0
