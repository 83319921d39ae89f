"""Scripted demonstrations: an arm lifts the cube, bins the can, puts the nut over the peg.

A scripted policy sees what a learnt policy sees, and moves the hand towards its next pose. Speed,
noise, the side and tilt of the approach, the grasp, the path and the place of release are drawn for
each demonstration; some hesitate, miss, retry or give up. So the data has many modes, like that of
several humans.
"""

from collections.abc import Callable, Iterator

import numpy as np
from scipy.spatial.transform import Rotation

from envs.robomimic import files
from envs.robomimic.names import RobomimicTask

OPEN, CLOSE = -1.0, 1.0  # of the gripper
STEP, TURN = 0.05, 0.5  # m and rad for an action of 1
DOWN = Rotation.from_matrix(np.diag([1.0, -1.0, -1.0]))  # the hand points down with yaw 0
YAWS = -1.7, 3.3  # rad, range of the hand
HOLD = 10  # steps of a demonstration after its first success
EMPTY = 0.01  # m, opening of an empty closed gripper

BIN = np.array([0.175, 0.365])  # the part of the can's bin that the arm reaches well
PEG, PEG_TOP = np.array([0.23, 0.10]), 0.95
HANDLE = np.array([0.060, 0.0, -0.003])  # where to grasp the nut, in its own frame

Plan = Iterator[np.ndarray]
Target = Callable[[], tuple[np.ndarray, float]]  # position [3] and yaw of the hand, now


def fixed(position: np.ndarray, yaw: float) -> Target:
    """Returns a target that does not move."""
    return lambda: (position, yaw)


class Arm:
    """The state of a scripted policy: it sees the last observation and makes the next action.

    Attributes:
        rng: of the demonstration.
        position: of the hand [3], m.
        rotation: of the hand.
        opening: between the fingers, m.
        object: position of the object [3], m.
        object_yaw: rad.
        object_axis: where its z axis points [3].
    """

    def __init__(self, task: RobomimicTask, rng: np.random.Generator, observation: np.ndarray):
        self._object = 0 if task.task == 'lift' else 7  # index of its pose
        self.rng = rng
        self.speed = rng.uniform(0.6, 1.1)
        self._noise_size = rng.uniform(0.02, 0.2)
        self._memory = rng.uniform(0.0, 0.8)  # autocorrelation of the noise
        self._noise = np.zeros(6)
        self._hesitation = rng.choice([0.0, rng.uniform(0.005, 0.03)])  # probability per step
        self._pause = 0
        self.tilt = rng.normal(0, 0.1, 2)  # rad, of the approach
        self.see(observation)

    def see(self, observation: np.ndarray) -> None:
        """Takes an observation [d_s]."""
        self.position = observation[:3].astype(np.float64)
        self.rotation = Rotation.from_quat(observation[3:7])
        self.opening = float(observation[7] - observation[8])
        pose = observation[9 + self._object :].astype(np.float64)
        turn = Rotation.from_quat(pose[3:7])
        self.object, self.object_yaw = pose[:3], _yaw(turn)
        self.object_axis = turn.apply([0.0, 0.0, 1.0])

    @property
    def yaw(self) -> float:
        """Yaw of the hand, rad, in the full turn around the reachable range."""
        middle = sum(YAWS) / 2
        return middle + _wrap(_yaw(self.rotation * DOWN.inv()) - middle)

    def holds(self, point: np.ndarray | None = None) -> bool:
        """Whether something is between the fingers, at `point` [3] (by default the object)."""
        point = self.object if point is None else point
        return self.opening > EMPTY and bool(np.linalg.norm(self.position - point) < 0.04)

    def act(
        self,
        position: np.ndarray,
        yaw: float,
        gripper: float,
        speed: float = 1.0,
        care: float = 1.0,
        tilt: np.ndarray | None = None,
    ) -> np.ndarray:
        """Returns the action [7] that brings the hand closer to a pose.

        Args:
            position: of the pose [3].
            yaw: of the pose.
            gripper: OPEN or CLOSE.
            speed: relative to this demonstration's.
            care: scale of this demonstration's noise.
            tilt: of the hand [2], rad about x and y; by default none.
        """
        goal = Rotation.from_euler('z', self.yaw + np.clip(yaw - self.yaw, -0.9, 0.9)) * DOWN
        if tilt is not None:
            goal = Rotation.from_rotvec([*tilt, 0.0]) * goal
        motion = _cut(2 * (position - self.position) / STEP, speed * self.speed)
        turn = _cut((goal * self.rotation.inv()).as_rotvec() / TURN, 1.0)
        self._pause = max(self._pause - 1, 0)
        if self.rng.random() < self._hesitation:
            self._pause = self.rng.integers(3, 13)
        if self._pause:
            motion, turn = np.zeros(3), np.zeros(3)
        fresh = self._noise_size * self.rng.normal(size=6)
        self._noise = self._memory * self._noise + np.sqrt(1 - self._memory**2) * fresh
        pose = np.concatenate([motion, turn]) + care * self._noise
        return np.append(pose, gripper).clip(-1, 1).astype(np.float32)

    def go(
        self, target: Target, gripper: float, near: float = 0.01, limit: int = 80, **how
    ) -> Plan:
        """Moves until the hand is `near` (m, and 0.15 rad) `target()`, for at most `limit` steps.

        `how` is passed to `act`.
        """
        for _ in range(limit):
            position, yaw = target()
            if np.linalg.norm(position - self.position) < near and abs(yaw - self.yaw) < 0.15:
                return
            yield self.act(position, yaw, gripper, **how)

    def stay(self, gripper: float, steps: int, care: float = 1.0) -> Plan:
        """Holds the hand still and moves the gripper."""
        position, yaw = self.position, self.yaw
        for _ in range(steps):
            yield self.act(position, yaw, gripper, care=care)

    def grasp(self, point: Target, misses: bool, clear: float = 0.04) -> Plan:
        """Approaches from a side or from above, moves down to `point()` and closes the gripper.

        Args:
            point: position and yaw of the grasp.
            misses: whether to grasp next to it.
            clear: collision-free height above the point, m.
        """
        rng = self.rng
        side = np.append(rng.normal(0, 0.03, 2), clear + rng.uniform(0.01, 0.08))
        over = np.array([0.0, 0.0, clear + rng.uniform(0.0, 0.03)])
        beside = np.array([*rng.normal(0, 0.02, 2), rng.uniform(0.04, 0.06)]) if misses else 0.0
        deep = np.array([0.0, 0.0, rng.uniform(-0.006, 0.006)])

        def from_point(offset):
            return lambda: (point()[0] + offset, point()[1])

        yield from self.go(from_point(side), OPEN, near=0.02, limit=60, tilt=self.tilt)
        yield from self.go(from_point(over), OPEN, near=0.012, limit=20)
        yield from self.go(from_point(deep + beside), OPEN, near=0.008, limit=30, care=0.5)
        yield from self.stay(CLOSE, int(rng.integers(6, 11)), care=0.5)


def lift(arm: Arm) -> Plan:
    """Grasps the cube by two of its sides and lifts it."""
    rng = arm.rng
    misses = _number_of_misses(rng, 0.2)
    gives_up = rng.random() < 0.02
    height = 0.8 + rng.uniform(0.07, 0.2)
    for attempt in range(6):
        yaw = arm.rng.choice(_reachable(arm.object_yaw + np.pi / 2 * np.arange(4), arm.yaw, 1.2))

        def point(yaw=yaw):
            quarters = np.round((yaw - arm.object_yaw) / (np.pi / 2))
            return arm.object, arm.object_yaw + np.pi / 2 * quarters

        yield from arm.grasp(point, misses=attempt < misses)
        up = np.append(arm.position[:2] + rng.normal(0, 0.02, 2), height)
        yaw = arm.yaw
        for step in range(60):
            if step > 5 and not arm.holds():
                break
            yield arm.act(up, yaw, CLOSE)
        if gives_up:
            return


def can(arm: Arm) -> Plan:
    """Grasps the can, carries it over the edge of its bin, releases it and withdraws."""
    rng = arm.rng
    misses = _number_of_misses(rng, 0.2)
    gives_up = rng.random() < 0.03
    carry = rng.uniform(1.01, 1.06)
    place = np.append(BIN + rng.uniform(-0.035, 0.035, 2), rng.uniform(0.89, 0.95))
    bend = np.array([rng.normal(0, 0.06), 0.0, 0.0])  # of the path

    def at_object(yaw: float) -> Target:
        return lambda: (arm.object, yaw)

    for attempt in range(4):
        yaw = float(np.clip(arm.yaw + rng.normal(0, 0.5), -1.2, 2.8))
        x, y, z = arm.object_axis
        if abs(z) < 0.7:  # it lies down: the fingers go beside it
            yaw = rng.choice(_reachable(np.arctan2(y, x) + np.pi * np.arange(2), arm.yaw, 1.6))
        yield from arm.grasp(at_object(yaw), attempt < misses, clear=0.075)
        up = np.append(arm.position[:2], carry)
        yield from _while_holding(arm, arm.go(fixed(up, yaw), CLOSE, near=0.03))
        if not arm.holds():
            if gives_up:
                return
            continue
        over = np.append(place[:2], carry)
        half = (up + over) / 2 + bend
        turned = yaw + rng.normal(0, 0.3)
        for goal, near, limit in ((half, 0.08, 80), (over, 0.03, 80), (place, 0.02, 30)):
            move = arm.go(fixed(goal, turned), CLOSE, near=near, limit=limit)
            yield from _while_holding(arm, move)
        yield from arm.stay(OPEN, int(rng.integers(4, 8)))
        back = arm.position + np.array([*rng.normal(0, 0.03, 2), rng.uniform(0.08, 0.15)])
        yield from arm.go(fixed(back, turned), OPEN, limit=30)


def square(arm: Arm) -> Plan:
    """Grasps the nut by its handle, brings it over the peg and lowers it."""
    rng = arm.rng
    misses = _number_of_misses(rng, 0.15)
    gives_up = rng.random() < 0.04
    carry = rng.uniform(1.01, 1.07)

    def handle() -> np.ndarray:
        return arm.object + Rotation.from_euler('z', arm.object_yaw).apply(HANDLE)

    for attempt in range(4):
        grasps = _reachable(arm.object_yaw + np.pi * np.arange(2), arm.yaw, 2.0)
        half_turn = np.round((rng.choice(grasps) - arm.object_yaw) / np.pi)

        def point(half_turn=half_turn):
            yaw = arm.object_yaw + np.pi * half_turn
            return handle(), yaw + 2 * np.pi * np.round((arm.yaw - yaw) / (2 * np.pi))

        yield from arm.grasp(point, misses=attempt < misses)
        up = np.append(arm.position[:2], carry)
        yield from arm.go(fixed(up, arm.yaw), CLOSE, near=0.02, limit=40)
        if not arm.holds(handle()):
            if gives_up:
                return
            continue
        # The arm cannot reach the peg from behind.
        turns = arm.yaw + _wrap(np.array([np.pi, np.pi / 2, -np.pi / 2]) - arm.object_yaw)
        goal = float(rng.choice(_reachable(turns, arm.yaw, 2.5)))
        yield from _insert(arm, goal, arm.object_yaw + goal - arm.yaw, handle, carry)


def _insert(
    arm: Arm, yaw: float, object_yaw: float, handle: Callable[[], np.ndarray], carry: float
) -> Plan:
    """Brings the nut over the peg, and lowers it while it is well aligned.

    Args:
        arm: holds the nut.
        yaw: target of the hand, until the nut's yaw is close to its goal.
        object_yaw: goal of the nut.
        handle: where the nut is held.
        carry: height of the hand on its path, m.
    """
    aligned = 0
    while arm.holds(handle()):
        left, error = yaw - arm.yaw, np.linalg.norm(PEG - arm.object[:2])
        if abs(left) < 0.5:
            left = _wrap(object_yaw - arm.object_yaw)
        if error > 0.005 or abs(left) > 0.1:
            aligned = 0
        elif error < 0.004 and abs(left) < 0.06:
            aligned += 1
        is_on_peg = arm.object[2] < PEG_TOP - 0.005 and error < 0.02
        height = arm.position[2] - 0.03 if is_on_peg or aligned >= 4 else carry
        offset = Rotation.from_euler('z', np.clip(left, -0.9, 0.9)).apply(arm.object - arm.position)
        speed, care = (1.0, 1.0) if error > 0.05 else (0.7, 0.2)
        goal = np.append(PEG - offset[:2], height)
        yield arm.act(goal, arm.yaw + left, CLOSE, speed=speed, care=care)


def _while_holding(arm: Arm, plan: Plan) -> Plan:
    for action in plan:
        yield action
        if not arm.holds():
            return


def _number_of_misses(rng: np.random.Generator, probability: float) -> int:
    return int(rng.choice([0, 1, 2], p=[1 - probability, 0.8 * probability, 0.2 * probability]))


def _reachable(yaws: np.ndarray, present: float, most: float) -> np.ndarray:
    """Returns the yaws within `most` that the hand can reach, or only the nearest if none is."""
    yaws = (yaws[:, None] + 2 * np.pi * np.arange(-2, 3)).ravel()
    yaws = yaws[(yaws > YAWS[0]) & (yaws < YAWS[1])]
    distances = np.abs(yaws - present)
    return yaws[distances <= max(most, distances.min())]


def _yaw(rotation: Rotation) -> float:
    x, y, _ = rotation.apply([1.0, 0.0, 0.0])
    return float(np.arctan2(y, x))


def _wrap(angle):
    return (angle + np.pi) % (2 * np.pi) - np.pi


def _cut(vector: np.ndarray, length: float) -> np.ndarray:
    return vector * min(1.0, length / max(float(np.linalg.norm(vector)), 1e-9))


PLANS: dict[str, Callable[[Arm], Plan]] = {'lift': lift, 'can': can, 'square': square}


class Demonstrator:
    """Plays demonstrations of a task in its own environment.

    Args:
        task: with scripted data.
    """

    def __init__(self, task: RobomimicTask):
        from envs.robomimic.tasks import RobosuiteEnv  # not needed by the process that writes

        self._task = task
        self.env = RobosuiteEnv(task, files.default_env_args(task))

    def play(self, seed: tuple[int, ...]) -> dict[str, np.ndarray]:
        """Plays one demonstration.

        It ends HOLD steps after its first success, at the task's time limit, or when the scripted
        policy gives up.

        Args:
            seed: non-negative integers that identify the demonstration.

        Returns:
            Dict of arrays [R, ...]: observations, actions and rewards (0 or 1) float32, terminals
            bool, True on the last row, the simulator's states float64; and `model` [], the scene as
            XML in bytes.
        """
        env_seed, own_seed = np.random.SeedSequence(seed).generate_state(2).tolist()
        observation, _ = self.env.reset(seed=env_seed)
        arm = Arm(self._task, np.random.default_rng(own_seed), observation)
        model, rows, solved = self.env.model(), [], 0
        for action in PLANS[self._task.task](arm):
            state = self.env.state()
            next_observation, _, success, _, _ = self.env.step(action)
            rows.append((observation, action, success, False, state))
            observation = next_observation
            arm.see(observation)
            solved += success or solved > 0
            if solved > HOLD or len(rows) == self._task.limit:
                break
        rows.append((observation, np.zeros_like(rows[0][1]), False, True, self.env.state()))
        dtypes = dict.fromkeys(('observations', 'actions', 'rewards'), np.float32)
        dtypes |= {'terminals': bool, 'states': np.float64}
        columns = zip(dtypes.items(), zip(*rows, strict=True), strict=True)
        arrays = {key: np.array(column, dtype) for (key, dtype), column in columns}
        return arrays | {'model': np.array(model.encode())}
