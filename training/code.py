"""Fingerprint of the code that a run learns with: a hash of each file that affects its numbers.

These are the modules of training/ that compute (`COMPUTES`), the agent's file, and their imports
from agents/ and utils/. Comments, docstrings and formatting do not change a hash. Simulators are
not covered: a run records only their versions and the git commit.
"""

import ast
import functools
import hashlib
import pathlib
from collections.abc import Mapping

import agents

DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
COMPUTES = ('evaluation', 'loop', 'shards', 'state', 'updates')


def fingerprint(source: str) -> str:
    """Returns a hash of Python source, 12 hexadecimal digits."""
    return _read(source)[0]


def fingerprints(agent: str) -> dict[str, str]:
    """Returns the hash of each of the project's files that a run learns with.

    A file outside the project is omitted: it is part of the run's identity.

    Args:
        agent: see `agents.find_file`.
    """
    root = agents.FOLDER.parent
    waiting = [root / 'training' / f'{name}.py' for name in COMPUTES] + [agents.find_file(agent)]
    found: dict[pathlib.Path, str] = {}
    while waiting:
        path = waiting.pop()
        if path not in found:
            found[path], imported = _read(path.read_text('utf-8'))
            waiting += [place for name in imported if (place := root / name).is_file()]
    return {
        str(path.relative_to(root)): value
        for path, value in sorted(found.items())
        if path.is_relative_to(root)
    }


@functools.cache
def _read(source: str) -> tuple[str, frozenset[str]]:
    """Returns the hash of Python source, and the project's files that it may import."""
    tree = ast.parse(source)
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f'{node.module}.{alias.name}' for alias in node.names}
        elif isinstance(node, DOCUMENTED) and ast.get_docstring(node) is not None:
            del node.body[0]
    ours = {name for name in names if name.partition('.')[0] in ('agents', 'utils')}
    digest = hashlib.sha256(ast.unparse(tree).encode()).hexdigest()[:12]
    return digest, frozenset(f'{name.replace(".", "/")}.py' for name in ours)


def changed(then: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """Returns the names of the files whose hashes differ."""
    return sorted(name for name in {**then, **now} if then.get(name) != now.get(name))
