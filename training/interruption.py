"""Signals that ask a run to stop: Ctrl-C, a closed terminal, a scheduler's warnings, a quota."""

import os
import signal
import threading
from typing import Any

from envs.processes import SIGNALS


class Interrupted(Exception):
    """A signal asked the run to stop; the message says where the run is."""


class Interruption:
    """A context manager that turns signals into `Interrupted`.

    Before `wait_for_check` there is nothing to save, so a signal raises at once. After it a signal
    is recorded, and only `check` raises; it is called at points where the run can be interrupted.
    Python drops exceptions raised in destructors and callbacks of the garbage collector; `check`
    raises then, too. A second SIGINT ends the process at once. Outside the main thread, which gets
    all signals, this does nothing.
    """

    def __init__(self):
        self.received: str | None = None
        self._raises_at_once = True
        self._before: dict[int, Any] = {}

    def __enter__(self) -> 'Interruption':
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                self._before[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _receive(self, number: int, _) -> None:
        if self.received and number == signal.SIGINT:
            os._exit(130)  # the simulators end with this process
        self.received = self.received or signal.Signals(number).name
        if self._raises_at_once:
            self._raises_at_once = False
            raise self.while_starting()

    def while_starting(self) -> Interrupted:
        """Returns the error of a run interrupted before it has anything to save."""
        return Interrupted(f'Interrupted by {self.received} while starting; nothing is lost')

    def wait_for_check(self) -> None:
        """From now on only `check` raises."""
        self._raises_at_once = False

    def check(self) -> None:
        """Raises `Interrupted` if a signal has arrived."""
        if self.received:
            raise Interrupted(f'Interrupted by {self.received}')
