"""LeRobot's pre- and postprocessors for an exported policy: they change no number.

The policy takes the environment's observations and returns its actions, so the (un)normalizers are
the identity. They exist because LeRobot's programs address them.
"""

from typing import Any

import torch
from lerobot.processor import (
    AddBatchDimensionProcessorStep,
    DeviceProcessorStep,
    NormalizerProcessorStep,
    PolicyAction,
    PolicyProcessorPipeline,
    RenameObservationsProcessorStep,
    UnnormalizerProcessorStep,
)
from lerobot.processor.converters import policy_action_to_transition, transition_to_policy_action
from lerobot.utils.constants import POLICY_POSTPROCESSOR_DEFAULT_NAME as AFTER_NAME
from lerobot.utils.constants import POLICY_PREPROCESSOR_DEFAULT_NAME as BEFORE_NAME

from lerobot_policy_dfp.configuration_dfp import DFPConfig

Batch = dict[str, Any]
Before = PolicyProcessorPipeline[Batch, Batch]
After = PolicyProcessorPipeline[PolicyAction, PolicyAction]


def make_dfp_pre_post_processors(
    config: DFPConfig, dataset_stats: dict[str, dict[str, torch.Tensor]] | None = None
) -> tuple[Before, After]:
    """Returns the processors that LeRobot runs before and after the policy."""
    outputs, modes = config.output_features, config.normalization_mapping
    features = {**config.input_features, **outputs}
    before = Before(
        steps=[
            RenameObservationsProcessorStep(rename_map={}),
            AddBatchDimensionProcessorStep(),
            DeviceProcessorStep(device=config.device),
            NormalizerProcessorStep(features=features, norm_map=modes, stats=dataset_stats),
        ],
        name=BEFORE_NAME,
    )
    after = After(
        steps=[
            UnnormalizerProcessorStep(features=outputs, norm_map=modes, stats=dataset_stats),
            DeviceProcessorStep(device='cpu'),
        ],
        name=AFTER_NAME,
        to_transition=policy_action_to_transition,
        to_output=transition_to_policy_action,
    )
    return before, after
