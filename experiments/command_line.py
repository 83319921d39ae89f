"""What programs share: errors in one line, help, and no arguments that are not flags."""

import contextlib
import signal
import sys
from collections.abc import Iterator

from absl import flags

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
