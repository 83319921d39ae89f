"""The meaning of observations and actions in OGBench's scenes.

Source: `compute_observation` and `set_control` of OGBench's manipspace environments.
"""

from envs.ogbench.names import CUBES
from envs.suite import Component, Interface

ARM = (
    Component('joint positions', 6, 'rad'),
    Component('joint velocities', 6, 'rad/s'),
    Component('effector position, from (0.425, 0, 0) m', 3, '0.1 m'),
    Component('effector yaw, cosine and sine', 2, '1'),
    Component('gripper, 0 open to 3 closed', 1, '1'),
    Component('gripper contact, at most 1', 1, '50 N'),
)
CUBE = (
    Component('position, from (0.425, 0, 0) m', 3, '0.1 m'),
    Component('orientation, quaternion w, x, y, z', 4, '1'),
    Component('yaw, cosine and sine', 2, '1'),
)
BUTTON = (
    Component('state, one-hot', 2, '1'),
    Component('position', 1, '1/120 m'),
    Component('velocity', 1, 'm/s'),
)
SLIDES = (
    Component('drawer position', 1, '1/18 m'),
    Component('drawer velocity', 1, 'm/s'),
    Component('window position', 1, '1/15 m'),
    Component('window velocity', 1, 'm/s'),
)
ACTION = (
    Component('effector translation in this step', 3, '0.05 m'),
    Component('effector yaw in this step', 1, '0.3 rad'),
    Component('gripper in this step, + closes', 1, 'whole way'),
)
CONTROL_RATE = 20.0


def describe(scene: str) -> Interface:
    """Returns the interface of a scene, such as 'cube-double'."""
    kind, _, size = scene.partition('-')
    if kind == 'scene':
        cubes, buttons, slides = 1, 2, SLIDES
    elif kind == 'cube':
        cubes, buttons, slides = CUBES[size], 0, ()
    else:  # a puzzle, such as 3x3
        cubes, buttons, slides = 0, int(size[0]) * int(size[2]), ()
    observation = (*ARM, *_each('cube', cubes, CUBE), *_each('button', buttons, BUTTON), *slides)
    return Interface(observation, ACTION, CONTROL_RATE, (-1.0, 1.0))


def _each(thing: str, number: int, parts: tuple[Component, ...]) -> list[Component]:
    return [part._replace(name=f'{thing} {i} {part.name}') for i in range(number) for part in parts]
