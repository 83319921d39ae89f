"""The house: imports point one way, programs are thin, settings come from one place."""

import ast
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parent.parent
PROGRAMS = ('main', 'evaluate', 'reproduce', 'export')
# The project's packages that each may import.
ALLOWED = {
    'utils': set(),
    'envs': {'utils'},
    'agents': {'utils'},
    'reports': {'utils'},
    'figures': {'training', 'agents', 'utils'},
    'training': {'agents', 'envs', 'utils'},
}
OURS = {*ALLOWED, *PROGRAMS, 'experiments', 'benchmarks', 'examples', 'tests'}


def imports(path):
    """Yields the first names of all modules that a file imports, wherever it does."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition('.')[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.partition('.')[0]


def files(folder):
    found = sorted((ROOT / folder).rglob('*.py'))
    assert found
    return found


@pytest.mark.parametrize('folder', ALLOWED)
def test_imports_point_one_way(folder):
    for path in files(folder):
        wrong = (set(imports(path)) & OURS) - ALLOWED[folder] - {folder}
        assert not wrong, f'{path}: imports {wrong}'


def test_a_simulators_process_needs_neither_jax_nor_matplotlib():
    for path in files('envs'):
        heavy = {'jax', 'flax', 'optax', 'chex', 'matplotlib'} & set(imports(path))
        assert not heavy, f'{path}: imports {heavy}'
