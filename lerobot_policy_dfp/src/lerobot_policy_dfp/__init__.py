"""Plays exported policies in LeRobot, as policies of the type `dfp`."""

from lerobot_policy_dfp.configuration_dfp import DFPConfig
from lerobot_policy_dfp.modeling_dfp import DFPPolicy
from lerobot_policy_dfp.processor_dfp import make_dfp_pre_post_processors

__all__ = ['DFPConfig', 'DFPPolicy', 'make_dfp_pre_post_processors']
