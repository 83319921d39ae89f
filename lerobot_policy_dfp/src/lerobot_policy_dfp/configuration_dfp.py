"""The settings of an exported policy, which LeRobot stores in `config.json`."""

from dataclasses import dataclass, field

from lerobot.configs.policies import PreTrainedConfig
from lerobot.configs.types import NormalizationMode
from lerobot.utils.constants import OBS_STATE

TRAIN = "an exported policy cannot be trained in LeRobot; use its project's main.py"


@PreTrainedConfig.register_subclass('dfp')
@dataclass
class DFPConfig(PreTrainedConfig):
    """Settings that `DFPPolicy.from_export` reads from `policy.json`.

    Attributes:
        chunk_size: h, the actions of a chunk.
        n_action_steps: how many of them are executed before the next chunk; at most h.
        num_samples: N, samples from which the critic chooses the best.
        action_low, action_high: [d_a] the robot's actions for −1 and 1.
        control_rate: actions per second, in Hz; None if unknown.
        program_bytes: size of the program in `model.safetensors`.
    """

    chunk_size: int = 1
    n_action_steps: int = 1
    num_samples: int = 1
    action_low: list[float] = field(default_factory=list)
    action_high: list[float] = field(default_factory=list)
    control_rate: float | None = None
    program_bytes: int = 0
    normalization_mapping: dict[str, NormalizationMode] = field(
        default_factory=lambda: {
            'STATE': NormalizationMode.IDENTITY,
            'ACTION': NormalizationMode.IDENTITY,
        }
    )

    def validate_features(self) -> None:
        """Raises ValueError if settings contradict each other."""
        if self.robot_state_feature is None or self.action_feature is None:
            raise ValueError(f'input_features needs {OBS_STATE}, and output_features action')
        if not 1 <= self.n_action_steps <= self.chunk_size:
            raise ValueError(
                f'n_action_steps={self.n_action_steps}: must be from 1 to chunk_size, '
                f'{self.chunk_size}'
            )

    @property
    def observation_delta_indices(self) -> None:
        return None

    @property
    def action_delta_indices(self) -> list[int]:
        return list(range(self.chunk_size))

    @property
    def reward_delta_indices(self) -> None:
        return None

    def get_optimizer_preset(self):
        raise NotImplementedError(TRAIN)

    def get_scheduler_preset(self):
        raise NotImplementedError(TRAIN)
