"""Scripted collection: what the files hold, equal seeds, failures that leave nothing behind."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import toy_suite
from processes import PATHS, ROOT

from envs import Suite, locks
from envs.collection import collect
from utils.errors import UserError


def read(path):
    with np.load(path) as file:
        return dict(file)


TOY = toy_suite.DATASET
collect_toy = partial(collect, toy_suite.suite, TOY, num_workers=1, num_val_episodes=1)


@pytest.fixture(scope='module')
def toy(tmp_path_factory):
    """Three episodes of the toy suite, and one for validation."""
    directory = tmp_path_factory.mktemp('toy')
    collect_toy(3, directory)
    return directory


def test_bytes_depend_on_the_seed_alone(toy, tmp_path):
    """Two workers and three files instead of one of each; episodes differ in length."""
    paths = collect_toy(3, tmp_path, num_shards=3, num_workers=2)
    folder = tmp_path / TOY
    assert list(tmp_path.iterdir()) == [folder]
    assert paths == [folder / f'{TOY}-{i:03d}.npz' for i in range(3)]
    whole, shards = read(toy / f'{TOY}.npz'), [read(path) for path in paths]
    for key, rows in whole.items():
        assert np.concatenate([shard[key] for shard in shards]).tobytes() == rows.tobytes()
    val = f'{TOY}-val.npz'
    assert (folder / val).read_bytes() == (toy / val).read_bytes()
    (other,) = collect_toy(3, tmp_path / 'other', seed=1)
    assert read(other)['actions'].tobytes() != whole['actions'].tobytes()


def test_a_collection_waits_for_another_and_uses_its_files(tmp_path, toy, capsys):
    found = []
    thread = threading.Thread(target=lambda: found.extend(collect_toy(3, tmp_path)))
    with locks.hold(tmp_path / f'{TOY}.lock', tmp_path):
        thread.start()
        while f'watch {tmp_path}/{TOY}.part grow' not in capsys.readouterr().err:
            time.sleep(0.01)
        for path in toy.iterdir():
            shutil.copy2(path, tmp_path)
        before = (tmp_path / f'{TOY}.npz').stat().st_mtime_ns
    thread.join()
    assert found == [tmp_path / f'{TOY}.npz']
    assert found[0].stat().st_mtime_ns == before
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.parametrize(
    ('other', 'message'),
    [({'seed': 1}, 'seed=0, not 1'), ({'num_shards': 3}, 'shards=1, not 3')],
)
def test_what_other_arguments_collected_is_not_overwritten(tmp_path, toy, other, message):
    shutil.copytree(toy, tmp_path, dirs_exist_ok=True)
    with pytest.raises(UserError, match=f'{tmp_path}/{TOY}.npz exists, collected with {message}'):
        collect_toy(3, tmp_path, **other)
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.parametrize('end', ['-val.npz', '-000.npz'])
def test_nor_is_what_was_not_collected(tmp_path, end):
    path = tmp_path / f'{TOY}{end}'
    path.touch()
    with pytest.raises(UserError, match=f'{path} exists, not collected .*: delete it or choose'):
        collect_toy(1, tmp_path)
    assert list(tmp_path.iterdir()) == [path]


def test_a_collection_that_was_killed_does_not_block_the_next(tmp_path):
    part = tmp_path / f'{TOY}.part'
    part.mkdir()
    for path in (part / f'{TOY}.npz', tmp_path / f'{TOY}.lock'):
        path.touch()
    for end in ('.json', '-val.npz'):  # killed while it published: these are moved first
        (tmp_path / f'{TOY}{end}').touch()
    collect_toy(3, tmp_path)
    assert len(list(tmp_path.iterdir())) == 3
    manifest = json.loads((tmp_path / f'{TOY}.json').read_text())
    expected = {'source': 'collected', 'episodes': 3, 'val_episodes': 1, 'shards': 1, 'seed': 0}
    assert expected.items() <= manifest.items()


class Unscripted(toy_suite.Toy):
    """A suite whose data has a name and no scripted policy."""

    make_scripted_policy = Suite.make_scripted_policy


def test_what_cannot_be_collected_is_said_in_a_line(tmp_path, capfd):
    with pytest.raises(UserError, match=f'{TOY}: suite toy has no scripted policy'):
        collect(Unscripted(), TOY, 3, tmp_path, num_workers=2)
    assert 'Traceback' not in capfd.readouterr().err
    assert list(tmp_path.iterdir()) == []
    (tmp_path / 'file').touch()
    with pytest.raises(UserError, match=f'^{tmp_path}/file: collecting failed .* writable direct'):
        collect_toy(3, tmp_path / 'file')
    with pytest.raises(UserError, match='3 episodes for 4 shards'):
        collect_toy(3, tmp_path, num_shards=4)


# ---- processes ----------------------------------------------------------------------------------

PROGRAM = ['-m', 'envs.collect', '--suite=toy_suite:suite', f'--env_name={TOY}']
IN_PYTHON = """
import pathlib, sys, toy_suite
from envs.collection import collect
collect(toy_suite.suite, toy_suite.DATASET, 50_000, pathlib.Path(sys.argv[1]), 2)
"""


def descendants(pid):
    """The process ids of a process's children, their children and so on."""
    children = Path(f'/proc/{pid}/task/{pid}/children').read_text().split()
    return [int(each) for child in children for each in (child, *descendants(child))]


@pytest.mark.skipif(not Path('/proc/self/task').exists(), reason='looks into /proc')
@pytest.mark.slow
@pytest.mark.parametrize(
    ('command', 'victim', 'number', 'status', 'message'),
    [
        (PROGRAM, 'program', signal.SIGINT, 1, 'Interrupted: nothing was saved'),
        (PROGRAM, 'worker', signal.SIGKILL, 1, 'died (exit code -9; out of memory?)'),
        (['-c', IN_PYTHON], 'program', signal.SIGKILL, -signal.SIGKILL, ''),
    ],
)
def test_a_collection_that_ends_early_leaves_no_process_and_no_files(
    tmp_path, command, victim, number, status, message
):
    flags = ['--num_episodes=50000', '--num_workers=2', f'--save_dir={tmp_path}']
    process = subprocess.Popen(
        [sys.executable, *command, *(flags if command is PROGRAM else [tmp_path])],
        env=os.environ | PATHS,
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
        # Programs that a shell starts in the background ignore Ctrl-C.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 60
    while len(others := descendants(process.pid)) < 4:  # two workers and what starts them
        assert time.monotonic() < deadline
        time.sleep(0.05)
    time.sleep(0.5)
    if victim == 'program':
        process.send_signal(number)
    else:
        os.kill(others[-1], number)
    _, errors = process.communicate(timeout=60)  # until all that could write are gone
    assert process.returncode == status
    assert message in errors
    assert 'Traceback' not in errors
    if status == 1:
        assert list(tmp_path.iterdir()) == []
    while any(Path(f'/proc/{pid}').exists() for pid in others):
        assert time.monotonic() < deadline
        time.sleep(0.05)
