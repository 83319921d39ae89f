"""Downloads are whole or absent, resume where they stopped, and run in one process at a time."""

import hashlib
import http.server
import re
import threading

import numpy as np
import pytest

from envs import download
from envs.downloads import download_file
from envs.ogbench import data
from utils.errors import UserError


class Server:
    """A local server of one file.

    Attributes:
        body: of the file.
        drops: how many bytes each answer gives before the connection breaks; then all.
        ranges: whether it can answer with a part.
        index: what folders list.
        asked: what was asked for, as the value of the header Range.
    """

    def __init__(self, body, ranges=True):
        self.body, self.ranges, self.drops, self.asked, self.index = body, ranges, [], [], b''
        server = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                server.answer(self)

            def do_HEAD(self):
                self.send_response(200)
                self.send_header('Content-Length', str(len(server.body)))
                self.end_headers()

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler)
        self.host = f'http://127.0.0.1:{self.server.server_port}'
        self.url = f'{self.host}/x.npz'
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def answer(self, handler):
        if handler.path.endswith('/'):
            handler.send_response(200)
            handler.end_headers()
            handler.wfile.write(self.index)
            return
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
def serve():
    servers = []

    def start(body):
        servers.append(Server(body))
        return servers[-1]

    yield start
    for server in servers:
        server.server.shutdown()
        server.server.server_close()


@pytest.fixture
def server(serve, body):
    return serve(body)


def fetch(server, tmp_path):
    path = tmp_path / 'data' / 'x.npz'
    assert download_file([server.url], path, 'collect it') in (server.url, None)
    return path


def names(tmp_path):
    return sorted(path.name for path in (tmp_path / 'data').iterdir())


def leave_a_part(tmp_path, content):
    (tmp_path / 'data').mkdir()
    (tmp_path / 'data' / 'x.npz.part').write_bytes(content)


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


@pytest.mark.parametrize('size', [100, 20_000])
def test_what_was_left_of_another_file_costs_a_second_try(tmp_path, server, size):
    leave_a_part(tmp_path, b'x' * size)
    assert fetch(server, tmp_path).read_bytes() == server.body
    assert server.asked == [f'bytes={size}-', None]
    assert names(tmp_path) == ['x.npz']


def test_of_many_servers_the_first_that_sends_the_file_is_taken(tmp_path, serve, body, caplog):
    """One is down, one cuts off, one sends another file."""
    np.savez(tmp_path / 'other.npz', x=np.zeros(2000))
    cuts, other, good = serve(body), serve((tmp_path / 'other.npz').read_bytes()), serve(body)
    cuts.drops = [3000, 0]
    path = tmp_path / 'data' / 'x.npz'
    urls = ['http://127.0.0.1:9/x.npz', cuts.url, other.url, good.url]
    came_from = download_file(urls, path, '', sha256=hashlib.sha256(body).hexdigest())
    assert (came_from, path.read_bytes()) == (good.url, body)
    lines = [record.getMessage() for record in caplog.records]
    reasons = ('Connection refused', f'3000 of {len(body)} bytes', 'the server sent another file')
    for line, url, after, reason in zip(lines, urls[:-1], urls[1:], reasons, strict=True):
        assert line.startswith(f'{url}: download failed (')
        assert reason in line
        assert line.endswith(f'trying {after}')


def test_all_files_of_a_large_data_set_are_downloaded_where_they_lie(
    tmp_path, monkeypatch, server, capsys
):
    name, files = 'cube-double-play-100m-v0', [f'cube-double-play-v0-00{i}.npz' for i in range(3)]
    monkeypatch.setattr('envs.ogbench.data.HOSTS', (server.host, 'http://127.0.0.1:9'))
    monkeypatch.delenv('OGBENCH_DATASET_URL', raising=False)
    with pytest.raises(UserError, match=f'{server.host}/{name}/: download failed .lists no .npz'):
        download.download(name, tmp_path)
    server.index = ''.join(f'<a href="{file}">{file}</a>' for file in files).encode()
    (tmp_path / name).mkdir()
    (tmp_path / name / f'{files[1]}.part').write_bytes(server.body[:5000])
    download.download(name, tmp_path)
    assert sorted(path.name for path in (tmp_path / name).iterdir()) == files
    assert server.asked == [None, 'bytes=5000-', None]
    download.download(name, tmp_path / name)
    text = capsys.readouterr().out
    assert f'3 files, 3 of them missing, 0.0 GB to download into {tmp_path / name}' in text
    assert f'3 files, 0 of them missing, 0.0 GB to download into {tmp_path / name}' in text


def test_other_data_sets_have_a_file_to_train_on_and_one_for_validation(
    tmp_path, monkeypatch, server
):
    monkeypatch.setattr('envs.ogbench.data.HOSTS', ('http://127.0.0.1:9', server.host))
    monkeypatch.delenv('OGBENCH_DATASET_URL', raising=False)
    download.download('cube-single-play-v0', tmp_path)
    found = sorted(path.name for path in tmp_path.glob('cube*'))
    assert found == ['cube-single-play-v0-val.npz', 'cube-single-play-v0.npz']
    with pytest.raises(UserError, match=r'cube-tenfold-play-v0: not a data set; use \{cube-'):
        download.download('cube-tenfold-play-v0', tmp_path)


def test_a_mirror_of_ones_own_comes_first_and_the_public_one_has_no_large_data(monkeypatch):
    monkeypatch.setenv('OGBENCH_DATASET_URL', 'file:///mine/')
    official, mirror = data.HOSTS
    assert data.hosts('cube-double-play-v0') == ['file:///mine', official, mirror]
    assert data.hosts('cube-double-play-100m-v0') == ['file:///mine', official]


def test_what_is_damaged_at_the_server_is_refused_and_not_kept(tmp_path, server):
    server.body = server.body[:500] + b'x' + server.body[501:]
    with pytest.raises(UserError, match=r'download failed \(x.npy is damaged\)'):
        fetch(server, tmp_path)
    assert names(tmp_path) == []
