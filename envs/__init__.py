"""Where experience comes from: environments by their usual names."""

import gymnasium

from envs import cube


def make_env(
    env_name: str, sparse: bool = False, success_timing: str = 'pre', render: bool = False
) -> gymnasium.Env:
    """Makes an environment.

    Observations are [d_s] float32, actions [d_a] float32 in [-1, 1], and info has 'success' (bool)
    and little else. `reset(seed=s)` makes the episode that follows reproducible, bit by bit.

    Args:
        env_name: such as 'cube-double-play-singletask-task2-v0'. A '-100m-' in the name changes
            the data set only.
        sparse: turns any non-zero reward into −1.
        success_timing: 'pre' takes reward, success and termination from the state before the
            action, as OGBench does since 1.2.0, so that an episode ends one step after the goal is
            reached; 'post' takes them from the state after it. Rewards of offline data follow
            'pre' in either case.
        render: lets `env.render()` return images [H, W, 3] uint8 that show which cubes are at
            their goal. Without a display, set MUJOCO_GL=egl or MUJOCO_GL=osmesa.

    Raises:
        ValueError: no such environment or timing.
    """
    return cube.make_env(env_name, sparse, success_timing, render)
