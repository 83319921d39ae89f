"""The toy suite with simulators that print each step."""

import toy_suite


class TalkingPush(toy_suite.Push):
    def step(self, action):
        print(f'step {self.steps} …' + 10_000 * '.', flush=True)
        return super().step(action)


class Talking(toy_suite.Toy):
    name = 'talking'

    def make_env(self, task, *, render=False, toy_time_limit=10, **options):
        return TalkingPush(toy_time_limit)


suite = Talking()
