"""The house: imports point one way, programs are thin, settings come from one place."""

import ast
import graphlib
import pathlib
import tokenize

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


def test_no_modules_of_envs_import_each_other_in_a_circle():
    """Imports inside functions and for types alone count as well."""
    modules = {}
    for path in files('envs'):
        name = '.'.join(path.relative_to(ROOT).with_suffix('').parts)
        modules[name.removesuffix('.__init__')] = path
    imported = {name: set() for name in modules}
    for name, path in modules.items():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom):
                found = [f'{node.module}.{alias.name}' for alias in node.names]
                found = {each if each in modules else node.module for each in found}
                imported[name] |= found & set(modules) - {name}
    graphlib.TopologicalSorter(imported).prepare()  # raises CycleError


def test_nothing_imports_a_program():
    for folder in (*ALLOWED, 'experiments', 'benchmarks', 'examples', 'tests'):
        for path in files(folder):
            assert not set(imports(path)) & set(PROGRAMS), path


def test_a_simulators_process_needs_neither_jax_nor_matplotlib():
    for path in files('envs'):
        heavy = {'jax', 'flax', 'optax', 'chex', 'matplotlib'} & set(imports(path))
        assert not heavy, f'{path}: imports {heavy}'


def test_nothing_below_the_programs_reads_flags():
    """A module that is a program too (`python -m …`) reads its own in `main` alone."""
    for folder in ('utils', 'agents', 'training'):
        for path in files(folder):
            assert 'flags' not in set(imports(path)), path
            assert 'FLAGS' not in path.read_text(), path
    for folder in ('envs', 'reports', 'figures'):
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
    for path in files('agents'):
        if '\ndef get_config()' in path.read_text():
            assert len(path.read_text().splitlines()) <= 290, path
