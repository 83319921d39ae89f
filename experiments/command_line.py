"""The command line of a program: what it holds before flags are defined, and errors in one line."""

import contextlib
import difflib
import pathlib
import re
import runpy
import signal
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

from absl import flags

from agents import agents, get_config
from experiments.flag_names import OTHER_NAMES
from utils.errors import UserError

HELP = {'--help', '-help', '--helpshort', '-helpshort', '-?', '-h'}


@contextlib.contextmanager
def one_line_errors() -> Iterator[None]:
    """Ends the program with one line and status 1 for whatever the user can put right.

    Ctrl-C ends it with one line too, and status 130. Afterwards Ctrl-C does what it did before.
    """
    at_once = signal.getsignal(signal.SIGINT) is signal.SIG_DFL
    if at_once:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    except (UserError, OSError, flags.Error) as error:
        # A note is what a simulator said when it failed, its traceback.
        sys.exit('\n'.join([*getattr(error, '__notes__', ()), ' '.join(str(error).split())]))
    except KeyboardInterrupt:
        print('Interrupted.', file=sys.stderr)
        sys.exit(130)
    finally:
        if at_once and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, signal.SIG_DFL)


def refuse_arguments(argv: list[str]) -> None:
    """Raises UserError for an argument that is no flag.

    Args:
        argv: program, and what is left when flags are parsed.
    """
    if len(argv) > 1:
        raise UserError(f'{argv[1]!r}: not a flag; flags start with --')


def take(argv: list[str], *names: str) -> tuple[list[tuple[str, str]], list[str]]:
    """Takes some flags out of a command line.

    Args:
        argv: program and flags, flag files already read.
        names: of flags that have a value, `--name=value` or `--name value`.

    Returns:
        Name and value of each of those flags, in their order, and the command line without them.
    """
    found, rest, arguments = [], [], iter(argv)
    for argument in arguments:
        match = re.fullmatch(r'--?([\w.]+)(?:=(.*))?', argument, re.DOTALL)
        if match and match[1] in names:
            found.append((match[1], next(arguments, '') if match[2] is None else match[2]))
        else:
            rest.append(argument)
    return found, rest


def share_out(arguments: list[str], ours: Mapping[str, flags.Flag]) -> tuple[list[str], list[str]]:
    """Returns the arguments that are of some flags, and all others, both in their order."""
    mine, others, rest = [], [], iter(arguments)
    for argument in rest:
        name = re.sub(r'^--?|=.*', '', argument, flags=re.DOTALL)
        name = name if name in ours else name.removeprefix('no')
        if name not in ours:
            others.append(argument)
            continue
        mine.append(argument)
        if '=' not in argument and not ours[name].boolean:
            mine += [value for value in [next(rest, None)] if value is not None]
    return mine, others


def peek(argv: list[str], name: str, default: str | None = None) -> str | None:
    """Returns the value of a flag before flags are defined; the last one given counts."""
    return dict(take(argv, name)[0]).get(name, default)


def refuse_other_names(argv: list[str], ours: Collection[str] = ()) -> None:
    """Raises UserError for a flag of FQL, QC or their descendants that has another name here.

    Args:
        argv: program and flags, flag files already read.
        ours: options of the suite, which may have such a name.
    """
    for name in _names(argv):
        if name in OTHER_NAMES and name not in ours:
            raise UserError(f'--{name}: {OTHER_NAMES[name]}')


def agent_settings(path: str) -> Mapping[str, Any]:
    """Returns what `get_config()` of an agent's file gives.

    Raises:
        UserError: there is no such file, it is no Python, or it has no `get_config`.
    """
    if not pathlib.Path(path).is_file():
        there_are = ', '.join(f'agents/{name}.py' for name in agents)
        raise UserError(f'--agent={path}: no such file; there are {there_are}')
    try:
        content = runpy.run_path(path)
    except SyntaxError as error:
        raise UserError(f'--agent={path}: not a Python program ({error})') from error
    if 'get_config' not in content:
        raise UserError(f'--agent={path}: has no get_config(); agents/dfp.py shows what it returns')
    return content['get_config']()


def refuse_unknown_settings(argv: list[str], path: str, settings: Mapping[str, Any]) -> None:
    """Raises UserError for an `--agent.<name>` that the agent does not have.

    Args:
        argv: program and flags, flag files and methods already expanded.
        path: of the agent's file.
        settings: of the agent.
    """
    for flag in _names(argv):
        _, is_setting, name = flag.partition('agent.')
        if not is_setting or name in settings:
            continue
        owners = [f'agents/{other}.py' for other in agents if name in get_config(other)]
        if owners:
            raise UserError(f'--{flag}: not a setting of {path}, but of {", ".join(owners)}')
        near = difflib.get_close_matches(name, settings, 1)
        hint = f'did you mean --agent.{near[0]}?' if near else f'it has {", ".join(settings)}'
        raise UserError(f'--{flag}: not a setting of {path}; {hint}')


def _names(argv: list[str]) -> Iterable[str]:
    """Yields the names of flags; `--noagent.<name>` counts as `--agent.<name>`."""
    for argument in argv[1:]:
        if match := re.match(r'--?(?:no(?=agent\.))?([\w.]+)', argument):
            yield match[1]


def help_text(doc: str, flags_help: str, path: str, settings: Mapping[str, Any]) -> str:
    """Returns what `--help` prints.

    Args:
        doc: of the program.
        flags_help: of its flags.
        path: of the agent's file, which says what each setting means.
        settings: of the agent.
    """
    lines = [
        f'  --agent.{name} (default {value!r})'
        for name, value in settings.items()
        if name != 'agent_name'  # says what `path` is
    ]
    own = '\n'.join([f'Settings of {path}:', *lines])
    return f'{doc}\n{flags_help}\n\n{own}\n\n--helpfull lists the flags of all modules.'
