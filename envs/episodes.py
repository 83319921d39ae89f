"""Wrappers of environments: chunks of actions, and episodes in a row.

One `step` of a wrapped environment is a chunk of h actions. So a policy is asked once per chunk,
and there is no way to ask it in between.
"""

from typing import Any

import gymnasium
import numpy as np

from utils.errors import UserError


class ActionChunks(gymnasium.Wrapper):
    """Executes chunks `[h, d_a]` open-loop, to their end or to the end of the episode.

    `step` returns the last observation, the sum of rewards, how the episode ended if it did, and
    `info['transitions']`, what happened, in the form that `Replay.add` takes:
    `observations [h, d_s]`, `actions [h, d_a]` (clipped to ±1), `rewards [h]`, `masks [h]` (0
    where the task terminated; a time limit is not a termination), `length`, `next_observation`
    and `done`. Only the first `length` of the h are real, the rest are zeros.

    Args:
        env: its actions are [d_a] in [-1, 1], as `envs.make_env` makes them.
        horizon_length: h.

    Raises:
        ValueError: the actions have other bounds, so that clipping would cut or leave out some.
    """

    def __init__(self, env: gymnasium.Env, horizon_length: int):
        super().__init__(env)
        space: Any = env.action_space
        is_box = isinstance(space, gymnasium.spaces.Box)
        if not is_box or (space.low != -1).any() or (space.high != 1).any():
            raise ValueError(f'{env}: its actions are {space}, not in [-1, 1]; use envs.make_env')
        self._horizon = horizon_length
        self._observation: np.ndarray = np.zeros(0, np.float32)
        self._shape = (horizon_length, *space.shape)
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, self._shape, np.float32)

    def reset(self, *, seed: int | None = None, options: dict | None = None):
        self._observation, info = self.env.reset(seed=seed, options=options)
        return self._observation, info

    def step(self, action: np.ndarray):
        """Executes up to h actions; a chunk `[n, d_a]` with n < h is executed to its end."""
        chunk = np.clip(action, -1.0, 1.0)
        observations = np.zeros((self._horizon, *self._observation.shape), np.float32)
        actions = np.zeros(self._shape, np.float32)
        rewards = np.zeros(self._horizon, np.float32)
        masks = np.ones(self._horizon, np.float32)
        terminated = truncated = False
        length = 0
        info: dict[str, Any] = {}
        while length < len(chunk) and not (terminated or truncated):
            observations[length] = self._observation
            self._observation, reward, terminated, truncated, info = self.env.step(chunk[length])
            rewards[length], masks[length] = reward, not terminated
            length += 1
        actions[:length] = chunk[:length]
        transitions = {
            'observations': observations,
            'actions': actions,
            'rewards': rewards,
            'masks': masks,
            'length': length,
            'next_observation': self._observation,
            'done': terminated or truncated,
        }
        info = info | {'transitions': transitions}
        return self._observation, float(rewards.sum()), terminated, truncated, info


def episode_seed(seed: int, episode: int, mode: str = 'play') -> int:
    """The seed that resets episode number `episode` of the run with seed `seed`.

    It is below 2³², which every simulator's generator takes. Source: `np.random.SeedSequence`.

    Args:
        seed: of the run, below 2³².
        episode: its number.
        mode: 'play' (the online phase) or 'evaluate'. The two have episodes of their own.
    """
    numbers = {'play': (seed, episode), 'evaluate': (seed, episode, 1)}[mode]
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


class EndlessPlay(gymnasium.Wrapper):
    """Plays on: the observation after the end of an episode is the first of the next.

    For the online phase in a vector environment, whose members need not all be asked for the same
    number of actions. `step` takes a chunk `[h, d_a]` and how many of its actions to execute, 0
    to h. `terminated` and `truncated` stay false. `info` has `transitions` (see `ActionChunks`),
    `success`, which counts where `transitions['done']`, and `episode`, the number of the episode
    that the returned observation belongs to, and `replaced`, 0; `reset`'s has `episode` alone.

    `start` (set with `set_attr`) is where `reset` begins: the run's seed, the number of an episode
    and the actions [n, d_a] (a NumPy array) already executed in it, none or more. Each episode is
    reset with `episode_seed(seed, number)`. So a run that saves these three continues as if it had
    never stopped: `reset` returns the observation that the run was at.
    """

    start: tuple[int, int, np.ndarray] | None = None

    def __init__(self, env: ActionChunks):
        super().__init__(env)
        assert env.action_space.shape is not None
        self._horizon, action_dim = env.action_space.shape
        self._no_actions = np.zeros((0, action_dim), np.float32)
        self._seed = self._episode = 0
        lengths = gymnasium.spaces.Discrete(self._horizon + 1)
        self.action_space = gymnasium.spaces.Tuple((env.action_space, lengths))

    def reset(self, *, seed: int | None = None, options: dict | None = None):
        """Begins at `start`; seed and options have no meaning here.

        Raises:
            RuntimeError: `start` is not set, or the episode ends within its actions.
        """
        if self.start is None:
            raise RuntimeError(
                "EndlessPlay: nowhere to start; set_attr('start', [(seed, episode, actions), …]) "
                'before reset'
            )
        self._seed, self._episode, actions = self.start
        actions = np.asarray(actions, np.float32).reshape(-1, self._no_actions.shape[1])
        observation = self._begin()
        for begin in range(0, len(actions), self._horizon):
            chunk = actions[begin : begin + self._horizon]
            observation, _, _, _, info = self.env.step(chunk)
            if info['transitions']['done']:
                raise UserError(
                    f'{_name(self)}: episode {self._episode} of seed {self._seed} ended after '
                    f'{begin + info["transitions"]["length"]} of the {len(actions)} actions that '
                    'were executed in it before: the simulator does not repeat itself, so the '
                    'run cannot be resumed here'
                )
        return observation, {'episode': self._episode}

    def _begin(self) -> np.ndarray:
        return self.env.reset(seed=episode_seed(self._seed, self._episode))[0]

    def step(self, action: tuple[np.ndarray, int]):
        chunk, length = action
        observation, reward, _, _, info = self.env.step(chunk[:length])
        transitions = info['transitions']
        success = False
        if transitions['done']:
            success = _success(self, info)
            self._episode += 1
            observation = self._begin()
        return observation, reward, False, False, self._info(transitions, success)

    def _info(self, transitions: dict[str, Any], success: bool) -> dict[str, Any]:
        told = {'transitions': transitions, 'success': success}
        return told | {'episode': self._episode, 'replaced': 0}

    def start_again(self, episode: int):
        """Begins the episode after number `episode`, which was lost with its simulator.

        Call it instead of `reset`, with `start` set to where the lost simulator began. Returns what
        a step does that executes nothing and ends the lost episode, without success.
        """
        assert self.start is not None
        self.start = (self.start[0], episode + 1, self._no_actions)
        observation, _ = self.reset()
        _, reward, _, _, info = self.env.step(self._no_actions)
        lost = info['transitions'] | {'done': True}
        return observation, reward, False, False, self._info(lost, success=False)


class EpisodeQueue(gymnasium.Wrapper):
    """Plays a given list of seeded episodes one after another, then idles.

    For evaluation in a vector environment, where what is played must depend neither on how long
    episodes take nor on which process is faster. `queue` (set with `set_attr`) holds pairs of an
    episode's number and its seed; `reset` starts it. The observation after the end of an episode
    is the first of the next one, and `terminated` and `truncated` stay false; `info` tells what
    happened: `episode` (the number of the one the returned observation belongs to, or −1 when
    idle), `finished` (whether an episode just ended) and with it `success` of the last step,
    `return` and `length`; and `replaced`, 0.
    """

    queue: tuple[tuple[int, int], ...] = ()

    def reset(self, *, seed: int | None = None, options: dict | None = None):
        """Starts the queue; seed and options have no meaning here.

        With an empty queue the simulator gets ready, which takes a while the first time.
        """
        self._waiting = list(self.queue)
        if not self._waiting:
            self.env.reset()
        return self._begin()

    def _begin(self):
        self._return, self._length, self._episode = 0.0, 0, -1
        if not self._waiting:
            return self._idle_observation(), self._info()
        self._episode, seed = self._waiting.pop(0)
        observation, _ = self.env.reset(seed=seed)
        return observation, self._info()

    def _idle_observation(self) -> np.ndarray:
        space: Any = self.observation_space
        return np.zeros(space.shape, space.dtype)

    def _info(self) -> dict[str, Any]:
        nothing = {'finished': False, 'success': False, 'return': 0.0, 'length': 0}
        return {'episode': self._episode, 'replaced': 0} | nothing

    def start_again(self, episode: int):
        """Begins episode number `episode`, which was lost with its simulator, and all after it.

        Call it instead of `reset`, with `queue` set to what the lost simulator had; −1: it was
        idle. Returns what a step does that executes nothing.
        """
        numbers = [number for number, _ in self.queue]
        self.queue = self.queue[numbers.index(episode) :] if episode >= 0 else ()
        observation, info = self.reset()
        return observation, 0.0, False, False, info

    def step(self, action: np.ndarray):
        if self._episode < 0:
            return self._idle_observation(), 0.0, False, False, self._info()
        observation, reward, terminated, truncated, info = self.env.step(action)
        self._return += float(reward)
        self._length += info['transitions']['length']
        if not (terminated or truncated):
            return observation, reward, False, False, self._info()
        outcome = {
            'finished': True,
            'success': _success(self, info),
            'return': self._return,
            'length': self._length,
        }
        observation, info = self._begin()
        return observation, reward, False, False, info | outcome


def _success(env: gymnasium.Env, info: dict[str, Any]) -> bool:
    if 'success' not in info:
        raise UserError(
            f"{_name(env)}: the info of an episode's last step has no 'success'; let the "
            "environment's step add info['success'] (bool)"
        )
    return bool(info['success'])


def _name(env: gymnasium.Env) -> str:
    spec = env.unwrapped.spec
    return type(env.unwrapped).__name__ if spec is None else spec.id
