"""Videos show the evaluated episodes, and change nothing else."""

import dataclasses
import logging

import cv2
import numpy as np
import pytest
import toy_suite
from counter_env import Counter
from PIL import Image
from processes import run_python
from small_agents import make as make_agent
from small_runs import assert_equal_outcomes, make_config

from envs import find_task, make_simulators, recording
from envs.recording import Recording, Renderer
from training import load_policy, train
from training.clips import (
    BORDER,
    PLAYING,
    SUCCESS,
    Clip,
    check_path,
    grid,
    plot_values,
    strip,
    write_picture,
    write_video,
)
from training.evaluation import evaluate
from training.videos import record
from utils.errors import UserError
from utils.seeds import stack

HORIZON, SEED = 3, 7
FRAMES = [np.full((17, 24, 3), 20 * i, np.uint8) for i in range(5)]


# ---- frames -------------------------------------------------------------------------------------


class Painted(Counter):
    """Its pictures show the number of the step."""

    def __init__(self, image=lambda steps: np.full((4, 6, 3), steps, np.uint8)):
        self._image = image

    def render(self):
        return self._image(self.steps)


def shown(seed, frame_skip):
    """Returns the steps that an episode's frames show, and its chunks."""
    env = Recording(Painted(), HORIZON, frame_skip)
    played = [env.begin(seed)]
    while not played[-1].done:
        played.append(env.play(np.zeros((HORIZON, 1), np.float32)))
    return [frame[0, 0, 0] for each in played for frame in each.frames], played


def test_a_recording_shows_the_start_every_few_steps_and_the_end():
    assert shown(seed=4, frame_skip=1)[0] == [0, 1, 2, 3, 4, 5, 6]  # it lasts 2 + 4 % 5 steps
    assert shown(seed=4, frame_skip=4)[0] == [0, 4, 6]
    assert shown(seed=4, frame_skip=3)[0] == [0, 3, 6]
    assert shown(seed=4, frame_skip=50)[0] == [0, 6]


# ---- a process that renders ---------------------------------------------------------------------


@pytest.fixture(scope='module')
def task():
    return find_task(toy_suite.ENV_NAME, 'toy_suite:suite')


@pytest.fixture(scope='module')
def renderer(task):
    renderer = Renderer(task, HORIZON, frame_skip=1)
    yield renderer
    renderer.close()


def test_a_video_shows_the_episodes_of_the_evaluation(task, renderer):
    policy = make_agent('dfp', horizon=HORIZON, action_dim=1).policy()
    simulators = make_simulators(task, 1, HORIZON)
    (scores,), _ = evaluate([stack([policy])], simulators, 4, [SEED])
    simulators.end()
    clips = record(policy, renderer, 4, SEED, with_values=True)
    assert np.mean([clip.success for clip in clips]) == scores['success']
    assert np.mean([len(clip.frames) - 1 for clip in clips]) == scores['length']
    for clip in clips:
        assert len(clip.chunks) == len(clip.frames)
        assert [len(values) for values in clip.values] == [16] * (clip.chunks[-1] + 1)
        assert clip.chunks == [0, *(i // HORIZON for i in range(len(clip.frames) - 1))]


@pytest.mark.slow
def test_where_one_way_to_render_is_missing_the_next_is_taken(task, monkeypatch):
    monkeypatch.delenv('MUJOCO_GL', raising=False)
    monkeypatch.setattr(recording, 'BACKENDS', ('broken', 'osmesa'))
    renderer = Renderer(task, HORIZON, frame_skip=1)
    assert renderer.begin(0).frames[0].shape == (16, 24, 3)
    renderer.close()


def gl_backend():
    """A way to render without a display that works on this machine, or None."""
    for backend in ('egl', 'osmesa'):
        code = 'import mujoco.gl_context as g; g.GLContext(8, 8)'
        if run_python('-c', code, env={'MUJOCO_GL': backend}).returncode == 0:
            return backend
    return None


@pytest.mark.slow
@pytest.mark.parametrize('env_name', ['cube-single-play-singletask-v0', 'lift-mh-low_dim'])
def test_simulators_are_rendered_without_a_display(env_name, monkeypatch):
    if (backend := gl_backend()) is None:
        pytest.skip('this machine has neither EGL nor OSMesa')
    monkeypatch.setenv('MUJOCO_GL', backend)
    options = {'robomimic_dataset_dir': '/nowhere'} if 'lift' in env_name else {}
    renderer = Renderer(find_task(env_name), 1, frame_skip=1, **options)
    first = renderer.begin(0).frames[0]
    action_dim = 7 if 'lift' in env_name else 5
    second = renderer.play(np.ones((1, action_dim), np.float32)).frames[0]
    renderer.close()
    assert first.std() > 10
    assert first.shape == second.shape
    assert (first != second).any()


# ---- runs ---------------------------------------------------------------------------------------


@pytest.fixture(scope='module')
def runs(tmp_path_factory):
    """Two seeds, with videos and without: configs and folders."""
    folder = tmp_path_factory.mktemp('videos')
    plain = make_config(folder, num_seeds=2, log_interval=0, eval_interval=20)
    filmed = dataclasses.replace(
        plain, video_episodes=2, video_frame_skip=2, save_dir=str(folder / 'filmed')
    )
    return [(config, train(config, show_progress=False).directory) for config in (plain, filmed)]


def test_videos_change_nothing_of_a_run(runs):
    (plain, first), (filmed, second) = runs
    assert plain.identity == filmed.identity
    assert first.name == second.name
    assert_equal_outcomes(first, second)


def test_a_run_has_a_video_of_each_evaluation_and_seed(runs):
    steps = [
        'offline-000000000',
        'offline-000000020',
        *(f'online-0000000{i}' for i in (20, 40, 60)),
    ]
    expected = [f'{step}-sd{seed:03d}.mp4' for step in steps for seed in (0, 1)]
    (_, without), (_, folder) = runs
    assert sorted(path.name for path in (folder / 'videos').iterdir()) == expected
    assert not (without / 'videos').exists()
    assert len(read_video(folder / 'videos' / expected[0])) >= 2


@pytest.mark.slow
def test_a_run_goes_on_without_videos_where_nothing_renders(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv('MUJOCO_GL', 'broken')
    config = make_config(tmp_path, video_episodes=1, online_steps=0)
    with caplog.at_level(logging.WARNING):
        result = train(config, show_progress=False)
    assert load_policy(result.directory) is not None
    lines = [record.getMessage() for record in caplog.records if 'videos' in record.getMessage()]
    assert len(lines) == 1  # not one for each evaluation
    assert lines[0].startswith('No more videos in this run: toy-push-v0 cannot be rendered here')


# ---- files --------------------------------------------------------------------------------------


def read_video(path):
    capture, frames = cv2.VideoCapture(str(path)), []
    while True:
        is_frame, frame = capture.read()
        if not is_frame:
            return frames
        frames.append(frame[..., ::-1])


def test_an_mp4_holds_the_frames_in_an_even_size(tmp_path):
    write_video(tmp_path / 'a.mp4', FRAMES, 15)
    frames = read_video(tmp_path / 'a.mp4')
    assert [frame.shape for frame in frames] == [(18, 24, 3)] * len(FRAMES)
    for frame, expected in zip(frames, FRAMES, strict=True):
        assert abs(frame.mean() - expected.mean()) < 12  # it is compressed
    assert [path.name for path in tmp_path.iterdir()] == ['a.mp4']


@pytest.mark.parametrize(
    ('path', 'message'),
    [
        ('a.avi', r'--video=.*a.avi: must end in .mp4 or .gif'),
        ('no/a.mp4', '--video=.*no/a.mp4: .*no is not a writable folder; create it'),
    ],
)
def test_a_video_that_cannot_be_written_is_refused_before_it_is_made(path, message, tmp_path):
    with pytest.raises(UserError, match=message):
        check_path(tmp_path / path, 'video')


def test_episodes_lie_side_by_side_and_success_has_a_green_border():
    good, bad = Clip(FRAMES[:2], True), Clip(FRAMES, False)
    frames = grid([good, bad, bad])
    assert len(frames) == len(FRAMES)
    height, width = 17 + 2 * BORDER, 24 + 2 * BORDER
    assert frames[0].shape == (2 * height, 2 * width, 3)
    green = [tuple(frame[0, 0]) == SUCCESS for frame in frames]
    assert green == [False, True, True, True, True]
    assert not any(tuple(frame[0, width]) == SUCCESS for frame in frames)
    np.testing.assert_array_equal(frames[-1][BORDER : BORDER + 17, BORDER : BORDER + 24], FRAMES[1])
    assert not frames[0][height:, width:].any()  # there is no fourth


def test_values_appear_chunk_by_chunk_beside_the_episode():
    values = [np.array([0.0, 1.0]), np.array([0.5, -1.0])]
    clip = Clip(FRAMES[:3], False, [0, 0, 1], values)
    assert grid([clip], with_values=True)[0].shape == (17 + 2 * BORDER, 24 + 17 + 2 * BORDER, 3)
    early, late = (plot_values(values, now, 200).astype(int) for now in (0, 1))
    assert (early != late).any()
    assert (early[:, :100] == late[:, :100]).all()  # what was, stays


def test_a_strip_has_a_row_for_each_episode_from_its_first_frame_to_its_last(tmp_path):
    clips = [Clip(FRAMES[:2], True), Clip(FRAMES, False)]
    picture = strip(clips, num=3)
    height, width, _ = FRAMES[0].shape
    size = (2 * (height + 2 * BORDER), 3 * (width + 2 * BORDER), 3)
    assert picture.shape == size
    inner = picture[BORDER : BORDER + height, BORDER : BORDER + width]
    np.testing.assert_array_equal(inner, FRAMES[0])
    last = picture[-BORDER - height : -BORDER, -BORDER - width : -BORDER]
    np.testing.assert_array_equal(last, FRAMES[-1])
    assert tuple(picture[0, -1]) == SUCCESS
    assert tuple(picture[-1, -1]) == PLAYING
    write_picture(tmp_path / 'strip.png', picture)
    np.testing.assert_array_equal(Image.open(tmp_path / 'strip.png'), picture)
    with pytest.raises(UserError, match=r'none/strip\.png: cannot be written'):
        write_picture(tmp_path / 'none' / 'strip.png', picture)
