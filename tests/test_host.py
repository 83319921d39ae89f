"""Programs run without a reader of their output, without UTF-8, and without a home directory."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import toy_suite
from processes import PATHS, ROOT, run_python
from small_runs import AGENT, read_table

from utils.host import settle

ASCII = {'LC_ALL': 'C', 'PYTHONUTF8': '0', 'PYTHONCOERCECLOCALE': '0'}
SETTLE = 'import os, sys; from utils.host import settle; settle(); settle();'


@pytest.mark.parametrize('flag', [[], ['-u']])
def test_output_that_nobody_reads_is_dropped_also_that_of_other_programs(tmp_path, flag):
    code = (
        f'{SETTLE} print("x" * 10_000_000); print("y", file=sys.stderr);'
        'os.system("echo z && echo done > done"); print("x")'
    )
    reads, writes = os.pipe()
    os.close(reads)
    pipes = {'capture_output': False, 'stdout': writes, 'stderr': writes}
    assert run_python(*flag, '-c', code, cwd=tmp_path, **pipes).returncode == 0
    assert (tmp_path / 'done').read_text() == 'done\n'


def test_no_file_gets_the_number_of_a_stream_that_is_closed(tmp_path):
    code = 'file = open("x", "w"); os.system("echo to nobody"); print("nor this"); file.write("x")'
    close = 'exec "$0" -c "$1" <&- >&- 2>&-'
    command = ['bash', '-c', close, sys.executable, f'{SETTLE} {code}']
    assert subprocess.run(command, cwd=tmp_path, env=os.environ | PATHS).returncode == 0
    assert (tmp_path / 'x').read_text() == 'x'


def test_what_the_encoding_does_not_have_is_escaped():
    run = run_python('-c', rf'{SETTLE} print("a \u2026 b")', env=ASCII, text=False, check=True)
    assert run.stdout == b'a \\u2026 b\n'


def test_a_user_without_a_home_has_one_among_temporary_files(tmp_path, monkeypatch, capsys):
    monkeypatch.delenv('HOME')
    monkeypatch.setattr('pwd.getpwuid', {}.__getitem__)
    monkeypatch.setattr('tempfile.tempdir', str(tmp_path))
    settle()
    home = tmp_path / f'home-{os.getuid()}'
    assert Path('~').expanduser() == home
    assert capsys.readouterr().err == f'No home directory; using {home} instead.\n'


@pytest.mark.slow
def test_a_run_ends_well_although_nobody_reads_what_it_and_its_simulators_say(tmp_path):
    flags = {
        'suite': 'odd_suites:talking', 'env_name': toy_suite.ENV_NAME, 'save_dir': 'exp',
        'toy_dataset_dir': 'data', 'offline_steps': 3, 'online_steps': 7, 'eval_episodes': 1,
        'compilation_cache_dir': '', **{f'agent.{name}': value for name, value in AGENT.items()},
    }  # fmt: skip
    reads, writes = os.pipe()
    os.close(reads)
    arguments = [f'--{name}={x}' for name, x in flags.items()]
    pipes = {'capture_output': False, 'stdout': writes, 'stderr': writes}
    elsewhere = {'cwd': tmp_path, 'env': ASCII}
    assert run_python(ROOT / 'main.py', *arguments, **elsewhere, **pipes).returncode == 0
    (table,) = tmp_path.glob('exp/*/*/*/eval.csv')
    assert [row['step'] for row in read_table(table)] == ['0', '3', '0', '7']
