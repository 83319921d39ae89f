"""The toy suite with environments as others have them: that print, are a robot's, know no goal."""

import toy_suite


class Talking(toy_suite.Push):
    """Prints each step."""

    def step(self, action):
        print(f'step {self.steps} …' + 10_000 * '.', flush=True)
        return super().step(action)


class Restless(toy_suite.Push):
    """Takes no seed, as a robot does, and says nothing of success."""

    def reset(self, *, seed=None, options=None):
        return super().reset()

    def step(self, action):
        return *super().step(action)[:4], {}


class Odd(toy_suite.Toy):
    def __init__(self, make):
        self.name, self.make = f'toy-{make.__name__}', make

    def make_env(self, task, *, render=False, toy_time_limit=10, **options):
        return self.make(toy_time_limit)


talking, restless = Odd(Talking), Odd(Restless)
