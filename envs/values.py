"""Checks and converts an environment's outputs."""

from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict

from envs.episodes import Observation
from utils.errors import UserError

SUCCESS = ('success', 'is_success', 'goal_achieved', 'solved')  # in info; the first that is there


class PlainValues(gymnasium.Wrapper):
    """Returns copies in fixed types, so that an environment may return and reuse any arrays.

    Observations are arrays with the shapes of `observation_space`, or a dict of them: uint8 if the
    space is, else float32. The reward is a float; `terminated` and `truncated` are bools, and so is
    `info['success']`, from whichever of `SUCCESS` the info has, or None if it has none. The
    environment gets a copy of the action, too.

    Args:
        env: with observations in a Box of any shape, or in a Dict of such Boxes.
        env_name: for errors.
        score: of the suite, see `Suite`. 'success_once': success is kept until the episode ends;
            'return': what the environment tells of success is left out.

    Raises:
        UserError: the observation space is of another kind; in `reset` and `step`, an observation
            does not fit its space, a reward is not a number, or the number of values is not
            Gymnasium's.
    """

    def __init__(self, env: gymnasium.Env, env_name: str, score: str = 'success'):
        super().__init__(env)
        self._name, self._score, self._succeeded = env_name, score, False
        space: Any = env.observation_space
        boxes = space.values() if isinstance(space, Dict) else [space]
        if not all(isinstance(box, Box) for box in boxes):
            fix = 'wrap the environment in gymnasium.wrappers.FlattenObservation'
            what = f'observations are {space}, but agents need a Box, or a Dict of Boxes'
            raise UserError(f'{env_name}: {what}; {fix}')
        self.observation_space = _plain(space)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        values = self.env.reset(seed=seed, options=options)
        observation, info = self._values('reset', values, 2)
        self._succeeded = False
        return self._observation(observation), info

    def step(self, action: np.ndarray):
        values = self.env.step(np.array(action))
        observation, reward, terminated, truncated, info = self._values('step', values, 5)
        terminated = self._scalar('terminated', terminated, bool)
        truncated = self._scalar('truncated', truncated, bool)
        reward = self._scalar('the reward', reward, float)
        info = {**info, 'success': self._success(info)}
        return self._observation(observation), reward, terminated, truncated, info

    def _success(self, info: Mapping[str, Any]) -> bool | None:
        told = [name for name in SUCCESS if name in info]
        if not told or self._score == 'return':
            return None
        success = self._scalar(f'info[{told[0]!r}]', info[told[0]], bool)
        self._succeeded = success or (self._succeeded and self._score == 'success_once')
        return self._succeeded

    def _wrong(self, what: str) -> UserError:
        return UserError(f'{self._name}: {what}; correct the environment')

    def _values(self, method: str, values: Any, number: int) -> Any:
        if not isinstance(values, tuple) or len(values) != number:
            found = f'{len(values)} values' if isinstance(values, tuple) else f'a {type(values)}'
            what = f"{method} returns {found}, but Gymnasium's returns {number}"
            raise self._wrong(f"{what} (shimmy wraps old gym's environments)")
        return values

    def _observation(self, given: Any) -> Observation:
        space: Any = self.observation_space
        if not isinstance(space, Dict):
            return self._array('an observation', given, space)
        if not isinstance(given, Mapping) or given.keys() != space.keys():
            kind = f'has {sorted(given)}' if isinstance(given, Mapping) else f'is a {type(given)}'
            wanted = f'its observation_space has {sorted(space)}'
            raise self._wrong(f'an observation {kind}, but {wanted}')
        return {name: self._array(f'observation {name!r}', given[name], space[name])
                for name in space}  # fmt: skip

    def _array(self, what: str, given: Any, box: Any) -> np.ndarray:
        array = np.asarray(given)
        fits = array.dtype == box.dtype or (box.dtype == np.float32 and array.dtype.kind in 'fiub')
        if array.shape != box.shape or not fits:
            wanted = f'its observation_space says {box.dtype} {box.shape}'
            raise self._wrong(f'{what} is {array.dtype} {array.shape}, but {wanted}')
        return array.astype(box.dtype)

    def _scalar(self, what: str, given: Any, kind: type) -> Any:
        array = np.asarray(given)
        if array.size != 1:
            wanted = f'must be one {kind.__name__}'
            raise self._wrong(f'{what} of a step has shape {array.shape}, but {wanted}')
        return kind(array.item())


def _plain(space: Any) -> Any:
    if isinstance(space, Dict):
        return Dict({name: _plain(box) for name, box in space.items()})
    if space.dtype in (np.uint8, np.float32):
        return space
    return Box(space.low.astype(np.float32), space.high.astype(np.float32), dtype=np.float32)
