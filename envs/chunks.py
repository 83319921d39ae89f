"""Chunks of actions, and episodes in a row: the wrappers that environments run in.

A policy that commits to h actions is asked once per chunk because nothing else is possible: one
`step` of the wrapped environment *is* a chunk.
"""

import gymnasium
import numpy as np


class ActionChunks(gymnasium.Wrapper):
    """Executes chunks `[h, d_a]` open-loop, to their end or to the end of the episode.

    `step` returns the last observation, the sum of rewards, how the episode ended if it did, and
    in `info['transitions']` what was experienced, in the form `ReplayBuffer.add` takes:
    `observations [h, d_s]`, `actions [h, d_a]` (clipped to ±1), `rewards [h]`, `masks [h]` (0
    where the task terminated; a time limit is not a termination), `length`, `next_observation`
    and `done`. Only the first `length` of the h are real, the rest are zeros.
    """

    def __init__(self, env: gymnasium.Env, horizon: int):
        super().__init__(env)
        self._horizon = horizon
        self._observation = None
        shape = (horizon, *env.action_space.shape)
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, shape, np.float32)

    def reset(self, **kwargs):
        self._observation, info = self.env.reset(**kwargs)
        return self._observation, info

    def step(self, chunk: np.ndarray):
        """Executes up to h actions; a chunk `[n, d_a]` with n < h is executed to its end."""
        chunk = np.clip(chunk, -1.0, 1.0)
        observations = np.zeros((self._horizon, *self._observation.shape), np.float32)
        rewards = np.zeros(self._horizon, np.float32)
        masks = np.ones(self._horizon, np.float32)
        terminated = truncated = False
        length, info = 0, {}
        while length < len(chunk) and not (terminated or truncated):
            observations[length] = self._observation
            self._observation, reward, terminated, truncated, info = self.env.step(chunk[length])
            rewards[length], masks[length] = reward, not terminated
            length += 1
        actions = np.zeros(self.action_space.shape, np.float32)
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


class EndlessPlay(gymnasium.Wrapper):
    """Plays on: the observation after the end of an episode is the first of the next.

    For the online phase in a vector environment, whose members need not all be asked for the same
    number of actions. `step` takes a chunk `[h, d_a]` and how many of its actions to execute, 0
    to h. `terminated` and `truncated` stay false; `info` has `transitions` (see `ActionChunks`) and
    `success`, which counts where `transitions['done']`.
    """

    def __init__(self, env: ActionChunks):
        super().__init__(env)
        lengths = gymnasium.spaces.Discrete(len(env.action_space.low) + 1)
        self.action_space = gymnasium.spaces.Tuple((env.action_space, lengths))

    def step(self, action: tuple[np.ndarray, int]):
        chunk, length = action
        observation, reward, _, _, info = self.env.step(chunk[:length])
        transitions = info['transitions']
        if transitions['done']:
            observation, _ = self.env.reset()
        info = {'transitions': transitions, 'success': bool(info.get('success', False))}
        return observation, reward, False, False, info


class EpisodeQueue(gymnasium.Wrapper):
    """Plays a given list of seeded episodes one after another, then idles.

    For evaluation in a vector environment, where what is played must depend neither on how long
    episodes take nor on which process is faster. `queue` (set with `set_attr`) holds pairs of an
    episode's number and its seed; `reset` starts it. The observation after the end of an episode
    is the first of the next one, and `terminated` and `truncated` stay false; `info` tells what
    happened: `episode` (the number of the one the returned observation belongs to, or −1 when
    idle), `finished` (whether an episode just ended) and with it `success` of the last step,
    `return` and `length`.
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
        return np.zeros(self.observation_space.shape, self.observation_space.dtype)

    def _info(self) -> dict:
        nothing = {'finished': False, 'success': False, 'return': 0.0, 'length': 0}
        return {'episode': self._episode} | nothing

    def step(self, action):
        if self._episode < 0:
            return self._idle_observation(), 0.0, False, False, self._info()
        observation, reward, terminated, truncated, info = self.env.step(action)
        self._return += reward
        self._length += info['transitions']['length']
        if not (terminated or truncated):
            return observation, reward, False, False, self._info()
        outcome = {
            'finished': True,
            'success': bool(info['success']),
            'return': self._return,
            'length': self._length,
        }
        observation, info = self._begin()
        return observation, reward, False, False, info | outcome
