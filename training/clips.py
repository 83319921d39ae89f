"""Videos: encoding, episodes side by side, and plots of the values of the proposals.

A video is an MP4 (VP9, by OpenCV) or a GIF (by Pillow), depending on the file name.
"""

import os
import pathlib
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from utils.errors import UserError

SUFFIXES = ('.mp4', '.gif')
CODEC = 'vp09'  # browsers play it, and OpenCV's package includes it
BORDER = 4  # pixels around each episode
PLAYING, SUCCESS = (90, 90, 90), (0, 200, 120)  # colours of the border
DOT, CHOSEN, TEXT = (120, 170, 210), (230, 120, 0), (60, 60, 60)


class Clip(NamedTuple):
    """A recorded episode.

    Attributes:
        frames: images [H, W, 3] uint8, the last one of the last state.
        success: at the last step.
        chunks: for each frame the number of its chunk, from 0.
        values: for each chunk the values `[N]` of its N proposals.
    """

    frames: Sequence[np.ndarray]
    success: bool
    chunks: Sequence[int] = ()
    values: Sequence[np.ndarray] = ()


def check_path(path: str | pathlib.Path, flag: str, suffixes: Sequence[str] = SUFFIXES) -> None:
    """Raises UserError unless `path`, the value of a flag, is writable and has a valid suffix."""
    path = pathlib.Path(path)
    if path.suffix not in suffixes:
        raise UserError(f'--{flag}={path}: must end in {" or ".join(suffixes)}')
    folder = path.absolute().parent
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise UserError(f'--{flag}={path}: {folder} is not a writable folder; create it')


def write_video(path: str | pathlib.Path, frames: Iterable[np.ndarray], fps: float) -> None:
    """Writes frames [H, W, 3] uint8 of equal size.

    Args:
        path: of an .mp4 or a .gif.
        frames: one or more.
        fps: frames per second.

    Raises:
        UserError: the file cannot be written.
    """
    path = pathlib.Path(path)
    write = _write_gif if path.suffix == '.gif' else _write_mp4
    try:
        write(path, [_even(frame) for frame in frames], fps)
    except OSError as error:
        raise UserError(f'{path}: cannot be written ({error.strerror or error})') from error


def _even(frame: np.ndarray) -> np.ndarray:
    """Repeats the last row or column of a frame of odd size, which MP4 does not support."""
    height, width, _ = frame.shape
    return np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), mode='edge')


def _write_gif(path: pathlib.Path, frames: Sequence[np.ndarray], fps: float) -> None:
    from PIL import Image

    first, *rest = (Image.fromarray(frame).quantize(128) for frame in frames)
    duration = round(1000 / fps)
    first.save(path, 'GIF', save_all=True, append_images=rest, duration=duration, loop=0)


def _write_mp4(path: pathlib.Path, frames: Sequence[np.ndarray], fps: float) -> None:
    import cv2

    height, width, _ = frames[0].shape
    path.touch()  # to get a reason if it cannot be written; OpenCV gives none
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*CODEC), fps, (width, height))
    try:
        if not writer.isOpened():
            raise OSError(f'this OpenCV ({cv2.__version__}) cannot write {CODEC}; use a .gif')
        for frame in frames:
            writer.write(np.ascontiguousarray(frame[..., ::-1]))  # BGR
    finally:
        writer.release()
    if not path.stat().st_size:
        raise OSError('nothing was written; is the disk full?')


def grid(clips: Sequence[Clip], with_values: bool = False) -> list[np.ndarray]:
    """Returns the frames of a video with all episodes side by side, in rows.

    A finished episode shows its last frame until all have ended, with a green border if it was
    successful.

    Args:
        clips: episodes with frames of equal size.
        with_values: whether to draw the proposals' values to the right of each.
    """
    columns = int(np.ceil(np.sqrt(len(clips))))
    panels = [_panels(clip, with_values) for clip in clips]
    blanks = [np.zeros_like(panels[0][0])] * (-len(clips) % columns)
    length = max(len(each) for each in panels)
    return [
        _tile([each[min(i, len(each) - 1)] for each in panels] + blanks, columns)
        for i in range(length)
    ]


def strip(clips: Sequence[Clip], num: int = 8, with_values: bool = False) -> np.ndarray:
    """Returns a picture with a row per episode: `num` frames from its first to its last.

    They are evenly spaced in time; an episode with fewer frames repeats some.

    Args:
        clips: episodes with frames of equal size.
        num: frames of each, 2 or more.
        with_values: whether to draw the proposals' values to the right of each.
    """
    chosen = []
    for clip in clips:
        panels = _panels(clip, with_values)
        chosen += [panels[i] for i in np.linspace(0, len(panels) - 1, num).round().astype(int)]
    return _tile(chosen, num)


def _tile(pictures: Sequence[np.ndarray], columns: int) -> np.ndarray:
    """Returns pictures of equal size side by side, in rows of `columns`."""
    rows = [pictures[i : i + columns] for i in range(0, len(pictures), columns)]
    return np.concatenate([np.concatenate(row, axis=1) for row in rows])


def write_picture(path: str | pathlib.Path, picture: np.ndarray) -> None:
    """Writes an image [H, W, 3] uint8 as .png; raises UserError if it cannot be written."""
    from PIL import Image

    try:
        Image.fromarray(picture).save(path, format='PNG', optimize=True)
    except OSError as error:
        raise UserError(f'{path}: cannot be written ({error.strerror or error})') from error


def _panels(clip: Clip, with_values: bool) -> list[np.ndarray]:
    """Returns an episode's frames with their borders, and with values if `with_values`."""
    panels = []
    for i, frame in enumerate(clip.frames):
        if with_values:
            plot = plot_values(clip.values, clip.chunks[i], frame.shape[0])
            frame = np.concatenate([frame, plot], axis=1)
        is_last = i == len(clip.frames) - 1
        colour = SUCCESS if clip.success and is_last else PLAYING
        height, width, _ = frame.shape
        panel = np.full((height + 2 * BORDER, width + 2 * BORDER, 3), colour, np.uint8)
        panel[BORDER:-BORDER, BORDER:-BORDER] = frame
        panels.append(panel)
    return panels


def plot_values(values: Sequence[np.ndarray], now: int, size: int) -> np.ndarray:
    """Draws the values of an episode's proposals up to a chunk, the chosen ones in orange.

    Args:
        values: `[N]` per chunk; the largest is that of the chosen proposal.
        now: number of the chunk.
        size: of the image [size, size, 3], in pixels.
    """
    from PIL import Image, ImageDraw, ImageFont

    image = Image.new('RGB', (size, size), 'white')
    draw = ImageDraw.Draw(image)
    line = max(10, size // 16)
    font = ImageFont.load_default(line)
    low, high = min(map(np.min, values)), max(map(np.max, values))
    top, bottom, radius = 2 * line, size - 2 * line, max(1.0, size / 160)

    def dot(chunk: int, value: float, radius: float, colour: tuple[int, int, int]) -> None:
        x = size * (chunk + 1) / (len(values) + 1)
        share = (value - low) / (high - low) if high > low else 0.5
        y = bottom - share * (bottom - top)
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)

    for chunk in range(now + 1):
        for value in values[chunk]:
            dot(chunk, float(value), radius, DOT)
        dot(chunk, float(np.max(values[chunk])), 2 * radius, CHOSEN)
    draw.text((4, 2), f'Q of {len(values[0])} proposals', fill=TEXT, font=font)
    draw.text((4, line + 2), f'{high:.3g}', fill=TEXT, font=font)
    draw.text((4, size - line - 6), f'{low:.3g}', fill=TEXT, font=font)
    return np.asarray(image)
