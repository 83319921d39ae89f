"""The necessary work of an update: the floating-point operations of its matrix products.

A backward pass through a network costs two forward passes, one for the parameters and one for the
inputs; a forward-mode derivative costs one.
"""

import itertools

from agents.base import Agent

# Time inputs of the network.
NUM_TIMES = {'bfn': 1, 'dfp': 0, 'driftql': 0, 'fmq': 2, 'fql': 1, 'mvp': 2, 'qam': 1}


def mlp_flops(inputs: int, hidden: tuple[int, ...], outputs: int) -> int:
    """Returns the work of one forward pass of one row."""
    return sum(2 * a * b for a, b in itertools.pairwise((inputs, *hidden, outputs)))


def update_flops(agent: Agent) -> int:
    """Returns the necessary work of one update of an agent in its phase."""
    config, spec, name = agent.config, agent.spec, agent.config.agent_name
    size, steps = spec.observation.shape[0], getattr(config, 'flow_steps', 1)

    def actor(passes, num_times=NUM_TIMES[name]):
        inputs = size + agent.noise_dim + num_times
        return passes * mlp_flops(inputs, config.actor_hidden_dims, spec.chunk_dim)

    def critics(passes):
        inputs = size + spec.chunk_dim
        return passes * config.num_qs * mlp_flops(inputs, config.critic_hidden_dims, 1)

    # One sample; of QAM, without QAM-E's and QAM-F's network.
    samples = {'bfn': actor(steps), 'qam': actor(steps), 'fql': actor(1, num_times=0)}
    sample = samples.get(name, actor(1))

    def best_of(num):
        return num * sample + (critics(num) if num > 1 else 0)

    uses_top_k = getattr(agent, 'uses_top_k', False)
    flops = best_of(config.target_num_samples or config.num_samples)  # at the next state
    flops += critics(1) + critics(3)  # target critic, TD loss
    flops += {
        'bfn': lambda: actor(3),
        # The flow; distillation; Q and its gradient to the action.
        'fql': lambda: actor(3) + actor(steps) + 3 * sample + critics(2),
        'mvp': lambda: actor((4 + 3 * bool(config.ivc_weight)) * (1 + config.top_k * uses_top_k)),
        'dfp': lambda: actor(3 * config.num_particles),
        'driftql': lambda: actor(3 * (config.num_particles + 1)) + critics(2),
        # Offline flow matching and distillation; online the kept map and the new one, and Q.
        'fmq': lambda: actor(1 + 3) + critics(2) if agent.online else actor(3 + 4),
        # The clone's loss; Q's gradient; the path; its adjoints by the clone, forward and back; the
        # regression to both flows.
        'qam': lambda: actor(3 + steps + 2 * steps + 4 * steps) + critics(2),
    }[name]()
    if uses_top_k:
        flops += best_of(config.num_candidates)
    return config.batch_size * flops
