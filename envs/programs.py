"""Shared by this package's programs, `python -m envs.collect` and `python -m envs.download`."""

import signal
import sys
from collections.abc import Callable, Sequence

from absl import app, flags

from envs.processes import SIGNALS
from utils.errors import UserError
from utils.host import settle


def run(main: Callable[[], None], interrupted: str) -> None:
    """Parses the flags and runs a program; errors that the user can fix end it with one line.

    Args:
        main: the program.
        interrupted: what to say when a signal ends it.
    """

    def stop(*_) -> None:
        for number in SIGNALS:  # later ones do not disturb the clean-up
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    def checked(argv: Sequence[str]) -> None:
        settle()
        for number in SIGNALS:
            signal.signal(number, stop)
        if len(argv) > 1:
            raise UserError(f'{argv[1]!r}: not a flag; flags start with --')
        main()

    try:
        app.run(checked, flags_parser=flags.FLAGS)
    except KeyboardInterrupt:
        sys.exit(interrupted)
    except (UserError, OSError, flags.Error) as error:
        # A note is the traceback of a failed worker.
        sys.exit('\n'.join([*getattr(error, '__notes__', ()), ' '.join(str(error).split())]))
