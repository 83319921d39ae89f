"""Checks and converts an environment's outputs."""

from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict

from envs.episodes import Observation
from utils.errors import UserError


class PlainValues(gymnasium.Wrapper):
    """Returns copies in fixed types, so that an environment may return and reuse any arrays.

    Observations are arrays with the shapes of `observation_space`, or a dict of them: uint8 if the
    space is, else float32. The reward is a float; `terminated`, `truncated` and `info['success']`
    are bools. The environment gets a copy of the action, too.

    Args:
        env: with observations in a Box of any shape, or in a Dict of such Boxes.
        env_name: for errors.

    Raises:
        UserError: the observation space is of another kind; in `reset` and `step`, an observation
            does not fit its space, a reward is not a number, or the last step of an episode lacks
            'success'.
    """

    def __init__(self, env: gymnasium.Env, env_name: str):
        super().__init__(env)
        self._name = env_name
        space: Any = env.observation_space
        boxes = space.values() if isinstance(space, Dict) else [space]
        if not all(isinstance(box, Box) for box in boxes):
            raise UserError(
                f'{env_name}: observations are {space}, but agents need a Box, or a Dict of '
                'Boxes; wrap the environment in gymnasium.wrappers.FlattenObservation'
            )
        if isinstance(space, Dict):
            self.observation_space = Dict({name: _plain(box) for name, box in space.items()})
        else:
            self.observation_space = _plain(space)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        observation, info = self.env.reset(seed=seed, options=options)
        return self._observation(observation), info

    def step(self, action: np.ndarray):
        observation, reward, terminated, truncated, info = self.env.step(np.array(action))
        terminated = self._scalar('terminated', terminated, bool)
        truncated = self._scalar('truncated', truncated, bool)
        if 'success' in info:
            info = info | {'success': self._scalar("info['success']", info['success'], bool)}
        elif terminated or truncated:
            raise UserError(
                f"{self._name}: the info of an episode's last step has no 'success'; let the "
                "environment's step add info['success'] (bool)"
            )
        reward = self._scalar('the reward', reward, float)
        return self._observation(observation), reward, terminated, truncated, info

    def _observation(self, given: Any) -> Observation:
        space: Any = self.observation_space
        if not isinstance(space, Dict):
            return self._array('an observation', given, space)
        if not isinstance(given, Mapping) or given.keys() != space.keys():
            kind = f'has {sorted(given)}' if isinstance(given, Mapping) else f'is a {type(given)}'
            raise UserError(
                f'{self._name}: an observation {kind}, but its observation_space has '
                f'{sorted(space)}; correct the environment'
            )
        return {name: self._array(f'observation {name!r}', given[name], space[name])
                for name in space}  # fmt: skip

    def _array(self, what: str, given: Any, box: Any) -> np.ndarray:
        array = np.asarray(given)
        fits = array.dtype == box.dtype or (box.dtype == np.float32 and array.dtype.kind in 'fiub')
        if array.shape != box.shape or not fits:
            raise UserError(
                f'{self._name}: {what} is {array.dtype} {array.shape}, but its observation_space '
                f'says {box.dtype} {box.shape}; correct the environment'
            )
        return array.astype(box.dtype)

    def _scalar(self, what: str, given: Any, kind: type) -> Any:
        array = np.asarray(given)
        if array.size != 1:
            raise UserError(
                f'{self._name}: {what} of a step has shape {array.shape}, but must be one '
                f'{kind.__name__}; correct the environment'
            )
        return kind(array.item())


def _plain(box: Any) -> Box:
    if box.dtype in (np.uint8, np.float32):
        return box
    return Box(box.low.astype(np.float32), box.high.astype(np.float32), dtype=np.float32)
