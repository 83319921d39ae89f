"""What the numbers in observations and actions of OGBench's scenes mean.

Source: `compute_observation` and `set_control` of OGBench's manipspace environments.
"""

from envs.ogbench.names import CUBES
from envs.suite import Interface, Part

ARM = (
    Part('joint positions', 6, 'rad'),
    Part('joint velocities', 6, 'rad/s'),
    Part('effector position, from (0.425, 0, 0) m', 3, '0.1 m'),
    Part('effector yaw, cosine and sine', 2, '1'),
    Part('gripper, 0 open to 3 closed', 1, '1'),
    Part('gripper contact, at most 1', 1, '50 N'),
)
CUBE = (
    Part('position, from (0.425, 0, 0) m', 3, '0.1 m'),
    Part('orientation, quaternion w, x, y, z', 4, '1'),
    Part('yaw, cosine and sine', 2, '1'),
)
BUTTON = (
    Part('state, one-hot', 2, '1'),
    Part('position', 1, '1/120 m'),
    Part('velocity', 1, 'm/s'),
)
SLIDES = (
    Part('drawer position', 1, '1/18 m'),
    Part('drawer velocity', 1, 'm/s'),
    Part('window position', 1, '1/15 m'),
    Part('window velocity', 1, 'm/s'),
)
ACTION = (
    Part('effector translation in this step', 3, '0.05 m'),
    Part('effector yaw in this step', 1, '0.3 rad'),
    Part('gripper in this step, + closes', 1, 'whole way'),
)
CONTROL_RATE = 20.0


def describe(scene: str) -> Interface:
    """Returns what observations and actions of a scene, such as 'cube-double', mean."""
    observation = [*ARM, *_each('cube', _num_cubes(scene), CUBE)]
    observation += _each('button', _num_buttons(scene), BUTTON)
    observation += SLIDES if scene == 'scene' else ()
    return Interface(tuple(observation), ACTION, CONTROL_RATE)


def _num_cubes(scene: str) -> int:
    kind, _, size = scene.partition('-')
    return CUBES[size] if kind == 'cube' else int(kind == 'scene')


def _num_buttons(scene: str) -> int:
    kind, _, size = scene.partition('-')
    if kind == 'puzzle':
        rows, columns = size.split('x')
        return int(rows) * int(columns)
    return 2 if kind == 'scene' else 0


def _each(thing: str, number: int, parts: tuple[Part, ...]) -> list[Part]:
    return [part._replace(name=f'{thing} {i} {part.name}') for i in range(number) for part in parts]
