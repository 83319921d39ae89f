"""Videos of a policy: the first episodes of its evaluation, replayed."""

import logging
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from envs.episodes import episode_seed
from envs.recording import Renderer
from training.clips import Clip, grid, write_video
from training.config import RunConfig
from utils.errors import UserError
from utils.keys import key_for
from utils.seeds import unstack

FPS = 15  # as in FQL and QC; at 20 Hz with a frame skip of 3, 2.25 times real time


def open_renderer(config: RunConfig, frame_skip: int) -> Renderer:
    """Returns a renderer for a run's task.

    Raises:
        UserError: this machine cannot render it.
    """
    settings = config.simulator_settings
    return Renderer(config.task, config.horizon_length, frame_skip, **settings)


def record(
    policy: Any,
    renderer: Renderer,
    num_episodes: int,
    seed: int,
    with_values: bool = False,
    between_steps: Callable[[], None] = lambda: None,
) -> list[Clip]:
    """Replays the first episodes of an evaluation, and records them.

    Start states and noise are those of `training.evaluation.evaluate` with the same seed, so the
    video shows the evaluated episodes.

    Args:
        policy: of one seed, an agent's `policy()`.
        renderer: of the task.
        num_episodes: how many.
        seed: of the evaluation.
        with_values: whether to keep the values of the proposals.
        between_steps: called before every chunk; its exceptions end the recording.

    Raises:
        UserError: the environment failed.
    """
    clips = []
    for episode in range(num_episodes):
        rng = jax.random.fold_in(key_for(seed, 'evaluation'), episode)
        played = renderer.begin(episode_seed(seed, episode, 'evaluate'))
        frames, chunks, values = played.frames, [0], []
        chunk = 0
        while not played.done:
            between_steps()
            key = jax.random.fold_in(rng, chunk)
            if with_values:
                values.append(np.asarray(proposal_values(policy, played.observation, key)))
            played = renderer.play(policy.sample_actions(played.observation, key))
            frames += played.frames
            chunks += [chunk] * len(played.frames)
            chunk += 1
        clips.append(Clip(frames, played.success, chunks, values))
    return clips


@jax.jit
def proposal_values(policy: Any, observation: jax.Array, rng: jax.Array) -> jax.Array:
    """Returns the values `[N]` of the proposals from which `policy.sample_actions` chooses."""
    num = policy.config.num_samples
    chunks = policy.propose(policy.params, observation, num, rng)
    return policy.score(observation, chunks)


class RunVideos:
    """Records videos at a run's evaluations. Failures are logged; training continues."""

    def __init__(self, config: RunConfig, folder: pathlib.Path):
        """Does not start the renderer yet.

        Args:
            config: of the run; its `video_episodes` says how many episodes, or none.
            folder: to write into.
        """
        self._config, self._folder = config, folder
        self._is_on = config.video_episodes > 0
        self._renderer: Renderer | None = None

    def record(
        self, policies: Sequence[Any], phase: str, step: int, check: Callable[[], None]
    ) -> None:
        """Writes `<phase>-<step>-sd<seed>.mp4` for each seed.

        Args:
            policies: stacks `[S_d, …]`, one per device.
            phase, step: of the run.
            check: called before every chunk; its exceptions end the recording.
        """
        if not self._is_on:
            return
        config, seeds = self._config, iter(self._config.seeds)
        try:
            if self._renderer is None:
                self._renderer = open_renderer(config, config.video_frame_skip)
            self._folder.mkdir(exist_ok=True)
            for stacked in policies:
                for i in range(jax.tree.leaves(stacked)[0].shape[0]):
                    seed, policy, num = next(seeds), unstack(stacked, i), config.video_episodes
                    clips = record(policy, self._renderer, num, seed, between_steps=check)
                    path = self._folder / f'{phase}-{step:09d}-sd{seed:03d}.mp4'
                    write_video(path, grid(clips), FPS)
        except (UserError, OSError) as error:
            logging.warning('No more videos in this run: %s', error)
            self._is_on = False
            self.close()

    def close(self) -> None:
        """Closes the renderer."""
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None
