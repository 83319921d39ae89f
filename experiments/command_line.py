"""Shared by the programs: one-line errors, help, and a check for stray arguments."""

import contextlib
import signal
import sys
from collections.abc import Iterator

from absl import flags

from utils.errors import UserError

HELP = {'--help', '-help', '--helpshort', '-helpshort', '-?', '-h'}


@contextlib.contextmanager
def one_line_errors() -> Iterator[None]:
    """Ends the program with one line and status 1 on errors that the user can fix.

    Ctrl-C ends it with one line and status 130. On exit, Ctrl-C's previous handler is restored.
    """
    at_once = signal.getsignal(signal.SIGINT) is signal.SIG_DFL
    if at_once:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    except (UserError, OSError, flags.Error) as error:
        # A note is the traceback of a failed simulator.
        sys.exit('\n'.join([*getattr(error, '__notes__', ()), ' '.join(str(error).split())]))
    except KeyboardInterrupt:
        print('Interrupted.', file=sys.stderr)
        sys.exit(130)
    finally:
        if at_once and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, signal.SIG_DFL)


def refuse_arguments(argv: list[str]) -> None:
    """Raises UserError for an argument that is not a flag.

    Args:
        argv: the program and the arguments left after parsing flags.
    """
    if len(argv) > 1:
        raise UserError(f'{argv[1]!r}: not a flag; flags start with --')
