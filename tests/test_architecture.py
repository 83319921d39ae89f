"""The house: imports point one way, programs are thin, settings come from one place."""

import ast
import pathlib
import tokenize

import pytest

ROOT = pathlib.Path(__file__).parent.parent
PROGRAMS = ('main', 'evaluate', 'reproduce', 'export')
# What each may import of ours, besides itself.
ALLOWED = {
    'utils': set(),
    'envs': {'utils'},
    'agents': {'utils'},
    'reports': {'utils'},
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


FIGURES = ('bandit', 'field', 'field_problems')  # which train what they draw


def files(folder):
    found = [x for x in sorted((ROOT / folder).rglob('*.py')) if x.stem not in FIGURES]
    assert found
    return found


@pytest.mark.parametrize('folder', ALLOWED)
def test_imports_point_one_way(folder):
    for path in files(folder):
        wrong = (set(imports(path)) & OURS) - ALLOWED[folder] - {folder}
        assert not wrong, f'{path}: imports {wrong}'


def test_nothing_imports_a_program():
    for folder in (*ALLOWED, 'experiments', 'benchmarks', 'examples', 'tests'):
        for path in files(folder):
            assert not set(imports(path)) & set(PROGRAMS), path


def test_a_simulators_process_needs_neither_jax_nor_matplotlib():
    for path in files('envs'):
        heavy = {'jax', 'flax', 'optax', 'chex', 'matplotlib', 'orbax'} & set(imports(path))
        assert not heavy, f'{path}: imports {heavy}'


def test_nothing_below_the_programs_reads_flags():
    """A module that is a program too (`python -m …`) reads its own in `main` alone."""
    for folder in ('utils', 'agents', 'training'):
        for path in files(folder):
            assert 'flags' not in set(imports(path)), path
            assert 'FLAGS' not in path.read_text(), path
    for folder in ('envs', 'reports'):
        for path in files(folder):
            for function in ast.walk(ast.parse(path.read_text())):
                if isinstance(function, ast.FunctionDef) and function.name != 'main':
                    names = {node.attr for node in ast.walk(function)
                             if isinstance(node, ast.Attribute)}  # fmt: skip
                    assert 'FLAGS' not in names, f'{path}: {function.name}'


@pytest.mark.parametrize('program', PROGRAMS)
def test_programs_are_thin(program):
    with (ROOT / f'{program}.py').open('rb') as file:
        tokens = list(tokenize.tokenize(file.readline))
    skipped = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT,
               tokenize.ENCODING, tokenize.ENDMARKER}  # fmt: skip
    lines = {token.start[0] for token in tokens if token.type not in skipped}
    assert len(lines) <= 120


def test_a_method_is_short():
    for method in ('bfn', 'dfp', 'fql', 'mvp'):
        assert len((ROOT / 'agents' / f'{method}.py').read_text().splitlines()) <= 160
