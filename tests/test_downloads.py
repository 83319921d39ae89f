"""Downloads: whole or not at all, from where they stopped, by one process at a time."""

import http.server
import re
import threading
import time

import numpy as np
import pytest

from envs import locks
from envs.downloads import download_file
from utils.errors import UserError


class Server:
    """A local server of one file.

    Attributes:
        body: of the file.
        drops: how many bytes each answer gives before the connection breaks; then all.
        ranges: whether it can answer with a part.
        asked: what was asked for, as the value of the header Range.
    """

    def __init__(self, body, ranges=True):
        self.body, self.ranges, self.drops, self.asked = body, ranges, [], []
        server = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                server.answer(self)

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler)
        self.url = f'http://127.0.0.1:{self.server.server_port}/x.npz'
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def answer(self, handler):
        asked = handler.headers.get('Range')
        self.asked.append(asked)
        start = int(re.fullmatch(r'bytes=(\d+)-', asked)[1]) if asked and self.ranges else 0
        total = len(self.body)
        if start and start >= total:
            handler.send_response(416)
            handler.send_header('Content-Range', f'bytes */{total}')
            handler.end_headers()
            return
        handler.send_response(206 if start else 200)
        if start:
            handler.send_header('Content-Range', f'bytes {start}-{total - 1}/{total}')
        handler.send_header('Content-Length', str(total - start))
        handler.end_headers()
        rest = self.body[start:]
        handler.wfile.write(rest[: self.drops.pop(0)] if self.drops else rest)
        handler.close_connection = True


@pytest.fixture
def body(tmp_path):
    path = tmp_path / 'served.npz'
    np.savez(path, x=np.random.default_rng(0).normal(size=1000))
    return path.read_bytes()


@pytest.fixture
def server(body):
    server = Server(body)
    yield server
    server.server.shutdown()
    server.server.server_close()


def fetch(server, tmp_path):
    return download_file(server.url, tmp_path / 'data' / 'x.npz', 'collect it')


def names(tmp_path):
    return sorted(path.name for path in (tmp_path / 'data').iterdir())


def leave_a_part(tmp_path, content, name='x.npz.part'):
    (tmp_path / 'data').mkdir(exist_ok=True)
    (tmp_path / 'data' / name).write_bytes(content)


def test_a_connection_that_breaks_is_made_again_where_it_was(tmp_path, server):
    server.drops = [3000, 1, 2500]
    path = fetch(server, tmp_path)
    assert path.read_bytes() == server.body
    assert server.asked == [None, 'bytes=3000-', 'bytes=3001-', 'bytes=5501-']
    assert names(tmp_path) == ['x.npz']


def test_a_download_that_was_killed_goes_on(tmp_path, server):
    leave_a_part(tmp_path, server.body[:5000])
    assert fetch(server, tmp_path).read_bytes() == server.body
    assert server.asked == ['bytes=5000-']
    assert names(tmp_path) == ['x.npz']


def test_a_server_without_parts_sends_all_again(tmp_path, server):
    server.ranges, server.drops = False, [3000, 4000]
    assert fetch(server, tmp_path).read_bytes() == server.body
    server.drops = [3000, 3000]
    (tmp_path / 'data' / 'x.npz').unlink()
    with pytest.raises(UserError, match='3000 of'):
        fetch(server, tmp_path)


def test_what_was_left_of_another_file_is_removed_and_the_next_try_is_right(tmp_path, server):
    leave_a_part(tmp_path, b'x' * 100)
    with pytest.raises(UserError, match=r'download failed .*Try again'):
        fetch(server, tmp_path)
    assert names(tmp_path) == []
    assert fetch(server, tmp_path).read_bytes() == server.body


def test_what_is_damaged_at_the_server_is_refused_and_not_kept(tmp_path, server):
    server.body = server.body[:500] + b'x' + server.body[501:]
    with pytest.raises(UserError, match=r'download failed \(x.npy is damaged\)'):
        fetch(server, tmp_path)
    assert names(tmp_path) == []


def test_of_two_downloads_one_waits_and_takes_the_file_of_the_other(tmp_path, server, capsys):
    paths, folder = [], tmp_path / 'data'
    folder.mkdir()
    with locks.hold(folder / 'x.lock', folder):
        threads = [
            threading.Thread(target=lambda: paths.append(fetch(server, tmp_path))) for _ in range(3)
        ]
        for thread in threads:
            thread.start()
        while f'watch {folder}/x.npz.part grow' not in capsys.readouterr().err:
            time.sleep(0.01)
    for thread in threads:
        thread.join()
    assert paths == [folder / 'x.npz'] * 3
    assert server.asked == [None]
    assert names(tmp_path) == ['x.npz']
