"""Flags of FQL, QC and their descendants that have another name here, or do not exist.

docs/flags.md has this table; `python -m experiments.flag_names` prints it.
"""

import re

_NUM_SAMPLES = 'use --agent.num_samples, and --agent.eval_num_samples if evaluation has another N'
_NO_FOURIER = 'the flow takes its time as is; leave it out'

# Advice by the flag's name elsewhere.
OTHER_NAMES = {
    'project': 'use --wandb_project',
    'entity': 'use --wandb_entity',
    'tags': 'use --wandb_tags',
    'group': 'use --run_group',
    'dataset_dir': 'use --ogbench_dataset_dir',
    'agent_config': 'use --method=DFP for drift, --method=MVP-topK for meanflow',
    'restore_epoch': 'name the checkpoint: --restore_path=<run>/checkpoints/offline-001000000',
    'agent.discount': 'use --discount',
    'agent.horizon_length': 'use --horizon_length',
    'agent.actor_num_samples': _NUM_SAMPLES,
    'agent.best_of_n': _NUM_SAMPLES,
    'eval_bon': 'use --agent.eval_num_samples',
    'q_bon': 'use --agent.target_num_samples',
    'agent.eval_bon': 'use --agent.eval_num_samples',
    'agent.q_bon': 'use --agent.target_num_samples',
    'agent.gen_per_label': 'use --agent.num_particles',
    'agent.drift_temps': 'use --agent.temperatures',
    'agent.drift_temp': 'use --agent.bandwidth with DriftQL',
    'agent.drift_ngen': 'use --agent.num_particles',
    'agent.q_alpha': 'use --agent.q_weight',
    'agent.actor_ema_tau': 'use --agent.ema_rate',
    'agent.actor_type': 'use --method=QC-BFN for best-of-n, --method=QC-FQL for distill-ddpg',
    'agent.value_hidden_dims': 'use --agent.critic_hidden_dims',
    'agent.layer_norm': 'use --agent.critic_layer_norm',
    'agent.value_layer_norm': 'use --agent.critic_layer_norm',
    'agent.weight_decay': 'Adam has none here; leave it out',
    'agent.use_fourier_features': _NO_FOURIER,
    'agent.fourier_feature_dim': _NO_FOURIER,
    'balanced_sampling': 'use --offline_batch_ratio=0.5',
    'save_all_online_states': 'the replay of a run is in its checkpoints; leave it out',
}


def table() -> str:
    """Returns the table of docs/flags.md, in Markdown."""
    rows = [f'| `--{name}` | {_with_code(text)} |' for name, text in OTHER_NAMES.items()]
    return '\n'.join(['| there | here |', '|---|---|', *rows])


def _with_code(text: str) -> str:
    return re.sub(r'--[\w.]+(=\S*[^\s,.])?', r'`\g<0>`', text)


if __name__ == '__main__':
    print(table())
