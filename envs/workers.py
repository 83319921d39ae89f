"""Processes that make an object and call its methods: simulators, renderer, data collection."""

import contextlib
import faulthandler
import multiprocessing
import multiprocessing.util
import os
import signal
import sys
import tempfile
import time
import traceback
import weakref
from collections.abc import Callable, Sequence
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from typing import Any

from gymnasium.vector.utils import CloudpickleWrapper

from envs.processes import environment_variables, obey_parent_alone, starting
from utils.errors import UserError
from utils.host import settle

LONGEST_FOLDER = 70  # characters; a socket in it has a path of 30 more, of 107 at most

forkserver_context = multiprocessing.get_context('forkserver')


class SimulatorError(UserError):
    """A simulator failed twice at the same place, or cannot be created.

    If it raised an exception, the error's note is the traceback.
    """


def start_fork_server(preload: Sequence[str] = ()) -> None:
    """Starts the process that workers are forked from, unless it is running.

    Args:
        preload: modules that it imports, once for all workers.
    """
    forkserver.set_forkserver_preload(['envs.simulators', 'envs.registry', *preload])
    # Before Python 3.13 the fork server does not get sys.path.
    path = environment_variables(PYTHONPATH=os.pathsep.join(map(os.path.abspath, sys.path)))
    if len(tempfile.gettempdir()) > LONGEST_FOLDER:
        before, tempfile.tempdir = tempfile.tempdir, '/tmp'
        multiprocessing.util.get_temp_dir()  # keeps it, for sockets alone
        tempfile.tempdir = before
    with starting(), path:
        forkserver.ensure_running()


class Worker:
    """An object in another process. `ask` calls a method, `answer` returns its result.

    The first answer is None, without `ask`: the object is ready. `end()` kills the process, as do
    the end of the program and of this object.
    """

    def __init__(
        self, make: Callable[[], Any], name: str, timeout: float, context: Any = forkserver_context
    ):
        """Starts the process.

        Args:
            make: makes the object there.
            name: of the process, for messages.
            timeout: seconds to wait for an answer.
            context: of `multiprocessing`.

        Raises:
            SimulatorError: the process cannot be started.
        """
        self._name, self._timeout = name, timeout
        try:
            self.pipe, theirs = context.Pipe()
            arguments = theirs, CloudpickleWrapper(make)
            self.process = context.Process(target=work, args=arguments, daemon=True)
            with theirs, starting():
                self.process.start()
                # Here, as a signal held back until now may raise next.
                self.end = weakref.finalize(self, _end, self.process, self.pipe)
        except AssertionError as error:  # daemonic processes are not allowed to have children
            fix = 'processes of multiprocessing.Pool may start none; use ProcessPoolExecutor'
            raise SimulatorError(f'{name} could not be started: {fix}') from error
        except (EOFError, OSError) as error:
            raise SimulatorError(f'{name} could not be started ({error!r})') from error

    def ask(self, name: str, *arguments: Any) -> None:
        """Calls a method of the object."""
        with contextlib.suppress(OSError):  # `answer` finds that the process is dead
            self.pipe.send((name, arguments))

    def answer(self, deadline: float | None = None) -> Any:
        """Returns the result of the method.

        Args:
            deadline: in seconds of `time.monotonic`; by default, the timeout from now.

        Raises:
            UserError: the method raised one.
            SimulatorError: it raised something else, or did not answer.
        """
        left = self._timeout if deadline is None else max(0.0, deadline - time.monotonic())
        try:
            if not self.pipe.poll(left):
                raise SimulatorError(
                    f'{self._name} did not answer for {self._timeout:g} s (--worker_timeout)'
                )
            kind, content = self.pipe.recv()
        except (EOFError, OSError):
            self.process.join(1.0)
            code = self.process.exitcode
            hint = '; out of memory?' if code == -signal.SIGKILL else ''
            raise SimulatorError(f'{self._name} died (exit code {code}{hint})') from None
        if kind == 'wrong':
            raise UserError(content)
        if kind == 'raised':
            error = SimulatorError(f'{self._name} raised {content.strip().splitlines()[-1]}')
            error.add_note(content.rstrip())
            raise error
        return content


def _end(process: Any, pipe: Connection) -> None:
    process.kill()
    pipe.close()
    process.join()


def work(pipe: Connection, make: Callable[[], Any]) -> None:
    """Makes an object and calls its methods for the parent, until the parent closes the pipe."""
    settle()
    obey_parent_alone()
    with contextlib.suppress(ValueError):  # it is no file
        faulthandler.enable()
    made: list[Any] = []
    with contextlib.suppress(EOFError, OSError):  # the parent died or closed the pipe
        _answer(pipe, lambda: made.append(make()))
        while made:
            name, arguments = pipe.recv()
            _answer(pipe, getattr(made[0], name), *arguments)


def _answer(pipe: Connection, function: Callable, *arguments: Any) -> None:
    try:
        answer = 'answer', function(*arguments)
    except UserError as error:
        answer = 'wrong', str(error)
    except Exception:
        answer = 'raised', traceback.format_exc()
    pipe.send(answer)
