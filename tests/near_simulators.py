"""Simulators without processes, for tests of what uses them."""

from envs.simulators import Simulators
from envs.workers import SimulatorError


class NearWorker:
    def __init__(self, make):
        self.env, self.found = make(), [None]

    def ask(self, name, *arguments):
        try:
            self.found.append(getattr(self.env, name)(*arguments))
        except ZeroDivisionError as error:
            self.found.append(SimulatorError(f'it raised {error}'))

    def answer(self, deadline):
        answer = self.found.pop(0)
        if isinstance(answer, SimulatorError):
            raise answer
        return answer

    def end(self):
        pass


class NearSimulators(Simulators):
    """The real ones, without processes.

    Args:
        makes: each makes the `ActionChunks` of one of them.
    """

    def __init__(self, makes):
        self.makes = makes
        super().__init__(lambda: None, len(makes), 'near', timeout=1)

    def _start(self):
        self._is_made, self._is_asked = False, False
        self._placed.clear()
        self._workers = [NearWorker(make) for make in self.makes]
