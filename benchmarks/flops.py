"""The necessary work of an update: the floating-point operations of its matrix products.

A backward pass through a network costs two forward passes, one for the parameters and one for the
inputs; a forward-mode derivative costs one.
"""

import itertools

from agents.base import Agent


def mlp_flops(rows: int, inputs: int, hidden: tuple[int, ...], outputs: int) -> int:
    """Returns the work of one forward pass."""
    sizes = (inputs, *hidden, outputs)
    return sum(2 * rows * a * b for a, b in itertools.pairwise(sizes))


# Time inputs of the network.
NUM_TIMES = {'bfn': 1, 'dfp': 0, 'driftql': 0, 'fmq': 2, 'fql': 1, 'mvp': 2, 'qam': 1}


def update_flops(agent: Agent) -> int:
    """Returns the necessary work of one update of an agent in its phase."""
    config, batch = agent.config, agent.config.batch_size
    spec = agent.spec
    inputs = spec.observation.shape[0] + spec.chunk_dim
    more_noise = getattr(config, 'noise_dim', 0) and config.noise_dim - spec.chunk_dim

    def actor(rows, num_times=NUM_TIMES[config.agent_name]):
        size = inputs + more_noise + num_times
        return mlp_flops(rows, size, config.actor_hidden_dims, spec.chunk_dim)

    def critics(rows):
        return config.num_qs * mlp_flops(rows, inputs, config.critic_hidden_dims, 1)

    uses_top_k = getattr(agent, 'uses_top_k', False)
    name = config.agent_name
    one_sample = {
        'bfn': lambda rows: config.flow_steps * actor(rows),
        'fql': lambda rows: actor(rows, num_times=0),
        'mvp': actor,
        'dfp': actor,
        'driftql': actor,
        'fmq': actor,
        'qam': lambda rows: config.flow_steps * actor(rows),  # without QAM-E's and QAM-F's network
    }[name]

    def best_of(num):
        return one_sample(batch * num) + (critics(batch * num) if num > 1 else 0)

    flops = best_of(config.target_num_samples or config.num_samples)  # at the next state
    flops += critics(batch) + 3 * critics(batch)  # target critic, TD loss
    if name == 'bfn':
        flops += 3 * actor(batch)
    if name == 'fql':
        flops += 3 * actor(batch)  # flow
        flops += config.flow_steps * actor(batch) + 3 * one_sample(batch)  # distillation
        flops += 2 * critics(batch)  # Q and its gradient to the action
    if name == 'mvp':
        rows = batch * (1 + (config.top_k if uses_top_k else 0))
        flops += 4 * actor(rows) + (3 * actor(rows) if config.ivc_weight else 0)
    if name == 'dfp':
        flops += 3 * actor(batch * config.num_particles)
    if name == 'driftql':
        flops += 3 * actor(batch * (config.num_particles + 1)) + 2 * critics(batch)
    if name == 'fmq' and not agent.online:
        flops += (3 + 4) * actor(batch)  # flow matching, distillation
    if name == 'fmq' and agent.online:
        flops += (1 + 3) * actor(batch) + 2 * critics(batch)  # the kept map and the new one; Q
    if name == 'qam':
        steps = config.flow_steps
        flops += 3 * actor(batch) + 2 * critics(batch)  # the clone's loss; Q's gradient
        # The path; its adjoints by the clone, forward and back; the regression to both flows.
        flops += (steps + 2 * steps + 4 * steps) * actor(batch)
    if uses_top_k:
        flops += best_of(config.num_candidates)
    return flops
