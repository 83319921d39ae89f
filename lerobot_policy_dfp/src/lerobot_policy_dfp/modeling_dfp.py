"""An exported policy in LeRobot: ONNX Runtime runs the program, torch only stores it."""

import collections
import json
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from lerobot.configs.types import FeatureType, PolicyFeature
from lerobot.policies.pretrained import PreTrainedPolicy
from lerobot.utils.constants import ACTION, OBS_STATE

from lerobot_policy_dfp.configuration_dfp import TRAIN, DFPConfig

PROGRAM = 'best_of_n.onnx'


class DFPPolicy(PreTrainedPolicy):
    """Executes chunks, each the best of N samples.

    The program, with the parameters of actor and critic, is a buffer of bytes, so LeRobot saves,
    loads and uploads it like the weights of any policy.
    """

    config_class = DFPConfig
    name = 'dfp'

    def __init__(self, config: DFPConfig, **_):
        super().__init__(config)
        config.validate_features()
        self.register_buffer('program', torch.zeros(config.program_bytes, dtype=torch.uint8))
        self._session: onnxruntime.InferenceSession | None = None
        self.reset()

    @classmethod
    def from_export(cls, folder: str | Path, device: str = 'cpu') -> 'DFPPolicy':
        """Returns the policy from a folder written by `export.py --formats=jax,onnx`.

        Raises:
            FileNotFoundError: the folder has no `policy.json`, or no ONNX program.
        """
        folder = Path(folder)
        about = json.loads((folder / 'policy.json').read_text('utf-8'))
        if not (folder / PROGRAM).exists():
            raise FileNotFoundError(f'{folder / PROGRAM}: not found; export with --formats=onnx')
        program = np.fromfile(folder / PROGRAM, np.uint8)
        state, action = about['observation']['shape'][0], about['action']
        config = DFPConfig(
            device=device,
            input_features={OBS_STATE: PolicyFeature(FeatureType.STATE, (state,))},
            output_features={ACTION: PolicyFeature(FeatureType.ACTION, (action['size'],))},
            chunk_size=about['chunk_length'],
            n_action_steps=about['chunk_length'],
            num_samples=about['num_samples'],
            action_low=action['low'],
            action_high=action['high'],
            control_rate=about['control_rate'],
            program_bytes=program.size,
        )
        policy = cls(config)
        policy.program.copy_(torch.from_numpy(program))
        return policy.to(device).eval()

    def reset(self) -> None:
        """Drops the rest of the chunk; call it when an episode starts."""
        self._queue: collections.deque[torch.Tensor] = collections.deque()

    @torch.no_grad()
    def predict_action_chunk(
        self, batch: dict[str, torch.Tensor], noise: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Returns chunks [B, h, d_a] in the robot's own actions.

        Args:
            batch: has 'observation.state' [B, d_s], its components in the order of `policy.json`.
            noise: [B, N, h, d_a], standard normal; by default drawn from torch's generator.
        """
        config, state = self.config, batch[OBS_STATE]
        shape = len(state), config.num_samples, config.chunk_size, *config.action_feature.shape
        noise = torch.randn(shape) if noise is None else noise
        inputs = {'observation': state, 'noises': noise}
        arrays = {name: array.float().cpu().numpy() for name, array in inputs.items()}
        chunk = torch.from_numpy(self._run(arrays))
        low, high = torch.tensor(config.action_low), torch.tensor(config.action_high)
        return torch.lerp(low, high, (chunk + 1) / 2).to(state.device)

    @torch.no_grad()
    def select_action(
        self, batch: dict[str, torch.Tensor], noise: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Returns the next action [B, d_a]; predicts a new chunk when the last one is used up."""
        if not self._queue:
            chunk = self.predict_action_chunk(batch, noise)
            self._queue.extend(chunk[:, : self.config.n_action_steps].unbind(1))
        return self._queue.popleft()

    def forward(self, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, dict | None]:
        raise NotImplementedError(TRAIN)

    def get_optim_params(self) -> dict:
        raise NotImplementedError(TRAIN)

    def _run(self, arrays: dict[str, np.ndarray]) -> np.ndarray:
        if self._session is None:
            there = onnxruntime.get_available_providers()
            on_gpu = self.config.device.startswith('cuda')
            wanted = ['CUDAExecutionProvider'] * on_gpu + ['CPUExecutionProvider']
            self._session = onnxruntime.InferenceSession(
                self.program.cpu().numpy().tobytes(),
                providers=[provider for provider in wanted if provider in there],
            )
        return self._session.run(['chunk'], arrays)[0]
