"""Setting up: the lock, and what `make setup` does with the Python it is given."""

import os
import pathlib
import re
import shutil
import subprocess
import tomllib

import pytest

ROOT = pathlib.Path(__file__).parent.parent
pytestmark = pytest.mark.slow
LOCK = (ROOT / 'requirements.txt').read_text()

# Stands for Python: says which one it is, makes a .venv of itself, notes what it is asked to do.
PYTHON = """#!/bin/sh
echo "{name} $*" >> {log}
case "$*" in
  *sys.exit*) exit {old} ;;
  *print*) echo "{name}" ;;
  *venv*) mkdir -p .venv/bin; cp "$0" .venv/bin/python ;;
esac
"""


@pytest.fixture
def make(tmp_path, monkeypatch):
    """Runs make in a folder of its own, where python3 (3.11), python3.12 and python3.10 are."""
    project, bin = tmp_path / 'project', tmp_path / 'bin'
    project.mkdir()
    bin.mkdir()
    for name in ('Makefile', 'requirements.txt'):
        shutil.copy(ROOT / name, project)
    log = tmp_path / 'log'
    for name in ('python3', 'python3.12', 'python3.10'):
        text = PYTHON.format(name=name, log=log, old=int(name == 'python3.10'))
        (bin / name).write_text(text)
        (bin / name).chmod(0o755)
    for name in ('MAKEFLAGS', 'MAKELEVEL', 'PYTHON'):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv('PATH', f'{bin}:/usr/bin:/bin')

    def run(*arguments):
        log.write_text('')
        command = ['make', 'setup', *arguments]
        result = subprocess.run(command, cwd=project, capture_output=True, text=True, timeout=60)
        return result, re.findall(r'(\S+) -m (venv|pip).*', log.read_text())

    return run


def test_setup_makes_an_environment_once(make):
    result, calls = make()
    assert result.returncode == 0, result.stderr
    assert calls == [('python3', 'venv'), ('python3', 'pip')]
    assert make()[1] == []


def test_jax_for_an_accelerator_is_of_the_locked_version(make, tmp_path):
    assert make('JAX=cuda13')[1] == [('python3', 'venv'), ('python3', 'pip'), ('python3', 'pip')]
    last = (tmp_path / 'log').read_text().splitlines()[-1]
    assert last.endswith('-c requirements.txt jax[cuda13]')
    assert re.search(r'^jax==', LOCK, re.MULTILINE)


def test_an_environment_of_another_python_than_the_one_asked_for_is_made_anew(make):
    make()
    assert make('PYTHON=python3.12')[1] == [('python3.12', 'venv'), ('python3.12', 'pip')]
    assert make('PYTHON=python3.12')[1] == []
    assert make()[1] == []  # nobody asked for another one
    assert make('PYTHON=python3')[1] == [('python3', 'venv'), ('python3', 'pip')]


def test_an_unfinished_environment_and_one_whose_python_is_gone_are_made_anew(make, tmp_path):
    anew = [('python3', 'venv'), ('python3', 'pip')]
    for lost in ('.ready', 'bin/python'):
        make('PYTHON=python3.12')
        (tmp_path / 'project' / '.venv' / lost).unlink()
        assert make()[1] == anew


def test_another_lock_is_installed_with_the_python_that_there_is(make, tmp_path):
    make('PYTHON=python3.12')
    os.utime(tmp_path / 'project' / 'requirements.txt', (2e9, 2e9))
    assert make()[1] == [('python3.12', 'pip')]


@pytest.mark.parametrize(
    ('python', 'message'),
    [
        ('python3.14', 'python3.14: no such Python here; install Python 3.11, 3.12 or 3.13'),
        ('/no/such/python', '/no/such/python: no such Python here'),
        ('python3.10', 'python3.10: is older than Python 3.11'),
    ],
)
def test_a_missing_python_is_called_missing_and_an_old_one_old(make, python, message):
    result, calls = make(f'PYTHON={python}')
    assert result.returncode != 0
    assert message in result.stdout
    assert calls == []


def test_the_lock_names_every_package_once_per_python_and_no_host():
    assert '://' not in LOCK
    assert not re.search(r'^-', LOCK, re.MULTILINE)
    assert all('==' in line for line in LOCK.splitlines() if line and line[0] not in '# ')
    assert 'labmaze==' not in LOCK


def test_the_version_is_the_same_wherever_it_is_said():
    version = tomllib.loads((ROOT / 'pyproject.toml').read_text())['project']['version']
    assert f'\nversion: {version}\n' in (ROOT / 'CITATION.cff').read_text()
    released = re.search(r'^## \[([\d.]+)\]', (ROOT / 'CHANGELOG.md').read_text(), re.MULTILINE)
    assert released
    assert released[1] == version
