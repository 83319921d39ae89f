"""What tests/test_lerobot.py runs in LeRobot's own environment: python lerobot_client.py <folder>

The folder has `policy_lerobot/` and `cases.npz`: observations, noises, and what the agent does.
"""

import pathlib
import sys

import gymnasium
import numpy as np
import pytest
import torch
from lerobot.configs.policies import PreTrainedConfig
from lerobot.policies.factory import get_policy_class, make_pre_post_processors
from lerobot.processor import PolicyProcessorPipeline
from lerobot.scripts.lerobot_eval import rollout
from lerobot.utils.import_utils import register_third_party_plugins

FOLDER = pathlib.Path(sys.argv[1])
CASES = np.load(FOLDER / 'cases.npz')
register_third_party_plugins()


class Recorder(gymnasium.Env):
    """Shows the first case's observation for ever and keeps the actions."""

    def __init__(self, num_steps):
        size, dim = CASES['observations'].shape[1], CASES['chunks'].shape[2]
        box = gymnasium.spaces.Box(-np.inf, np.inf, (size,), np.float32)
        self.observation_space = gymnasium.spaces.Dict({'agent_pos': box})
        self.action_space = gymnasium.spaces.Box(-9, 9, (dim,), np.float32)
        self._max_episode_steps, self.actions, self.task = num_steps, [], ''

    def reset(self, *, seed=None, options=None):
        self.actions.clear()
        return {'agent_pos': CASES['observations'][0]}, {}

    def step(self, action):
        self.actions.append(action)
        ends = len(self.actions) == self._max_episode_steps
        return {'agent_pos': CASES['observations'][0]}, 0.0, ends, False, {'is_success': ends}


def load():
    """Returns the policy and its processors as LeRobot's programs load them."""
    path = str(FOLDER / 'policy_lerobot')
    config = PreTrainedConfig.from_pretrained(path)
    policy = get_policy_class(config.type).from_pretrained(path, config=config)
    overrides = {'device_processor': {'device': 'cpu'}}
    return policy, *make_pre_post_processors(config, path, preprocessor_overrides=overrides)


policy, before, after = load()
observations, noises = map(torch.from_numpy, (CASES['observations'], CASES['noises']))
low, high = CASES['low'], CASES['high']
expected = low + (CASES['chunks'] + 1) / 2 * (high - low)

# The agent's own chunks, through the processors.
batch = before({'observation.state': observations})
chunks = after(policy.predict_action_chunk(batch, noise=noises))
np.testing.assert_allclose(chunks, expected, atol=1e-5)

# One action at a time, from a queue that a reset empties.
for step in range(2 * expected.shape[1]):
    action = policy.select_action(batch, noise=noises)
    np.testing.assert_allclose(action, expected[:, step % expected.shape[1]], atol=1e-5)
policy.select_action(batch, noise=noises)
policy.reset()
np.testing.assert_allclose(policy.select_action(batch, noise=noises), expected[:, 0], atol=1e-5)

# A robot's single observation gets its batch; torch's seed decides where no noise is given.
torch.manual_seed(0)
first = policy.predict_action_chunk(before({'observation.state': observations[0]}))
second = policy.predict_action_chunk(before({'observation.state': observations[0]}))
torch.manual_seed(0)
again = policy.predict_action_chunk(before({'observation.state': observations[0]}))
assert first.shape == (1, *expected.shape[1:])
assert torch.equal(first, again)
assert not torch.equal(first, second)

with pytest.raises(NotImplementedError, match=r'train it with main.py'):
    policy.forward(batch)

# LeRobot's evaluation plays it: two chunks and a half.
num_steps = expected.shape[1] * 5 // 2
env = gymnasium.vector.SyncVectorEnv([lambda: Recorder(num_steps)])
nothing = PolicyProcessorPipeline(steps=[])
torch.manual_seed(0)
played = rollout(env, policy, nothing, nothing, before, after)['action']
assert played.shape == (1, num_steps, expected.shape[2])
np.testing.assert_allclose(played[0, : expected.shape[1]], first[0], atol=1e-6)
print('as the agent')
