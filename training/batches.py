"""Training batches: which videos and questions a step sees, and the dense labels of its visual tokens."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from packing import IGNORE, PackedText, PromptIds, pack_pairs
from questions import QUESTION_KINDS, add_filler, sample_questions
from scenes import Video, render, render_crowd, sample_video

from framefusion.needle.objects import COLOR_NAMES, KINDS

OBJECT_COVERAGE = 0.25
BACKGROUND_COVERAGE = 0.03
MAX_SCENES = 4
NO_COLOR = len(COLOR_NAMES)
NO_KIND = len(KINDS)


@dataclass(frozen=True)
class BatchPlan:
    """What one training step consists of.

    ``keep`` is the share of visual tokens that enters the decoder: training on random subsets costs less and
    prepares the decoder for reduced videos. Steps with ``text`` False train the vision side only, on crowded
    single frames; steps with ``vision`` False leave it as it is.
    """

    videos: int
    frames: int
    scenes: int | None
    pairs: int
    digit_share: float
    jitter: float
    keep: float = 1.0
    text: bool = True
    vision: bool = True


@dataclass(frozen=True)
class DenseLabels:
    """Class per visual token, each int64 ``(B, T·64)``, −100 where no answer is asked for.

    ``color``/``kind``: what lies under the token (the last class is background). ``scene_color``/``scene_kind``:
    the object of the token's scene. ``previous_color``/``previous_kind``: the object of the scene before (the
    last class is "none"). ``ordinal``: number of the scene. A decoder token only sees earlier tokens, so all
    but the first two are asked for from the first object token of a scene on.
    """

    color: torch.Tensor
    kind: torch.Tensor
    scene_color: torch.Tensor
    scene_kind: torch.Tensor
    previous_color: torch.Tensor
    previous_kind: torch.Tensor
    ordinal: torch.Tensor


@dataclass(frozen=True)
class Batch:
    """One step's input: ``pixels`` float32 ``(B, T, 3, 64, 64)``, ``kept`` int64 ``(B, K)`` ascending indices
    of the visual tokens that enter the decoder, and dense labels of the vision side's tokens ``(B, T·64)``
    and of the kept ones ``(B, K)``."""

    pixels: torch.Tensor
    kept: torch.Tensor
    vision_labels: DenseLabels
    labels: DenseLabels
    text: PackedText | None
    vision: bool = True


def plan(step: int, vision_steps: int, question_steps: int, total_steps: int, seed: int) -> BatchPlan:
    """The curriculum: single frames, then two scenes in four frames, then four scenes in eight frames, and for the
    last ``question_steps`` many questions behind each video."""
    rng = np.random.default_rng([seed, step, 1])
    progress = (step - vision_steps) / max(1, total_steps - question_steps - vision_steps)
    # Crowded frames teach the vision side far more per second than videos do, so until late the two sides
    # take turns instead of training through each other.
    if progress < 0 or (progress < 1 and step % 3 == 0):
        return BatchPlan(48, 1, None, 0, digit_share=0.25, jitter=0.0, text=False)
    if progress < 0.04:
        keep = float(rng.uniform(0.3, 0.7))
        return BatchPlan(32, 2, 2, 6, digit_share=0.15, jitter=0.0, keep=keep, vision=False)
    if progress >= 1:
        # The vision side is done; many questions behind few tokens teach most per second what is asked.
        frames = int(rng.choice([4, 8, 16], p=[0.2, 0.78, 0.02]))
        keep = 1.0 if rng.random() < 0.04 else float(rng.uniform(0.12, 0.35))
        videos = 8 if keep == 1 else {4: 20, 8: 16, 16: 6}[frames]
        return BatchPlan(videos, frames, None, 24, digit_share=0.12, jitter=0.35, keep=keep, vision=False)
    frames = int(rng.choice([4, 8], p=[0.8, 0.2] if progress < 0.4 else [0.4, 0.6]))
    keep = 1.0 if rng.random() < 0.15 else float(rng.uniform(0.2, 0.5))
    videos = {4: 20, 8: 10}[frames]
    return BatchPlan(videos, frames, None, 10, digit_share=0.1, jitter=0.12, keep=keep, vision=False)


def keep_tokens(rng: np.random.Generator, coverage: np.ndarray, keep: float) -> np.ndarray:
    """Draw visual tokens of one video without replacement, ascending, object tokens three times as likely."""
    count = coverage.size
    kept = max(1, round(keep * count))
    if kept == count:
        return np.arange(count)
    weight = np.where(coverage.reshape(-1) > OBJECT_COVERAGE, 3.0, 1.0)
    return np.sort(rng.choice(count, size=kept, replace=False, p=weight / weight.sum()))


def dense_labels(videos: list[Video], kept: np.ndarray | None = None) -> DenseLabels:
    """Dense labels of rendered videos of one length, at all visual tokens or at the ``kept`` ``(B, K)`` ones."""
    if kept is None:
        kept = np.stack([np.arange(video.coverage.size) for video in videos])
    rows = [_dense_row(video, row) for video, row in zip(videos, kept, strict=True)]
    return DenseLabels(*(torch.from_numpy(np.stack(column)) for column in zip(*rows, strict=True)))


def _dense_row(video: Video, kept: np.ndarray) -> tuple[np.ndarray, ...]:
    coverage = video.coverage.reshape(-1)[kept]
    scene = video.scene_of_frame[kept // video.coverage[0].size]
    colors = np.asarray([COLOR_NAMES.index(item.obj.color) for item in video.spec.scenes])
    kinds = np.asarray([KINDS.index(item.obj.kind) for item in video.spec.scenes])
    is_object = coverage > OBJECT_COVERAGE
    unclear = (coverage > BACKGROUND_COVERAGE) & ~is_object
    hidden = np.ones_like(is_object)
    for index in range(len(colors)):
        inside = np.flatnonzero(scene == index)
        hidden[inside] = np.cumsum(is_object[inside]) == 0

    def pick(values: np.ndarray, mask: np.ndarray) -> np.ndarray:
        return np.where(mask, IGNORE, values).astype(np.int64)

    previous_color = np.concatenate([[NO_COLOR], colors[:-1]])
    previous_kind = np.concatenate([[NO_KIND], kinds[:-1]])
    return (
        pick(np.where(is_object, colors[scene], NO_COLOR), unclear),
        pick(np.where(is_object, kinds[scene], NO_KIND), unclear),
        pick(colors[scene], hidden),
        pick(kinds[scene], hidden),
        pick(previous_color[scene], hidden),
        pick(previous_kind[scene], hidden),
        pick(scene, hidden),
    )


def to_pixels(frames: np.ndarray) -> torch.Tensor:
    """What the processor makes of 64-pixel frames: uint8 ``(…, H, W, 3)`` to float32 ``(…, 3, H, W)`` in −1 … 1."""
    pixels = torch.from_numpy(frames).movedim(-1, -3).float()
    return pixels.div_(255).sub_(0.5).div_(0.5)


@lru_cache(maxsize=1)
def _noise_bank() -> torch.Tensor:
    return torch.randn(1 << 22, generator=torch.Generator().manual_seed(1))


def augment(pixels: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """Brightness, contrast, noise and a slight blur, drawn per video; ``pixels`` is ``(B, T, 3, H, W)``."""

    def draw(low: float, high: float) -> torch.Tensor:
        values = rng.uniform(low, high, size=(len(pixels), 1, 1, 1, 1)).astype(np.float32)
        return torch.from_numpy(values)

    if rng.random() < 0.4:
        images = pixels.flatten(0, 1)
        blurred = torch.nn.functional.avg_pool2d(images, 3, stride=1, padding=1, count_include_pad=False)
        pixels = torch.lerp(pixels, blurred.view_as(pixels), draw(0.0, 0.6))
    # A slice of one long noise tensor: drawing fresh noise would cost more than rendering the video.
    first = int(rng.integers(len(_noise_bank()) - pixels.numel()))
    noise = _noise_bank()[first : first + pixels.numel()].view_as(pixels)
    changed = pixels * draw(0.88, 1.1) + draw(-0.1, 0.1) + noise * draw(-0.05, 0.08).clamp_(min=0.0)
    return changed.clamp_(-1.0, 1.0)


def _vision_batch(rng: np.random.Generator, spec: BatchPlan) -> Batch:
    frames, colors, kinds = [], [], []
    for _ in range(spec.videos):
        count = int(rng.integers(1, 3)) if rng.random() < 0.25 else 8
        frame, objects, coverage = render_crowd(rng, count, digit_share=spec.digit_share)
        coverage = coverage.reshape(len(objects), -1)
        owner, most = coverage.argmax(axis=0), coverage.max(axis=0)
        unclear = (most > BACKGROUND_COVERAGE) & (most <= OBJECT_COVERAGE)
        for target, names, attribute in ((colors, COLOR_NAMES, "color"), (kinds, KINDS, "kind")):
            classes = np.asarray([names.index(getattr(obj, attribute)) for obj in objects])
            row = np.where(most > OBJECT_COVERAGE, classes[owner], len(names))
            target.append(np.where(unclear, IGNORE, row))
        frames.append(frame)
    color, kind = torch.from_numpy(np.stack(colors)), torch.from_numpy(np.stack(kinds))
    nothing = torch.full_like(color, IGNORE)
    labels = DenseLabels(color, kind, nothing, nothing, nothing, nothing, nothing)
    pixels = augment(to_pixels(np.stack(frames)[:, None]), rng)
    return Batch(pixels, torch.arange(color.shape[1]).expand_as(color), labels, labels, None)


def make_batch(step: int, spec: BatchPlan, prompts: PromptIds, pad_id: int, seed: int) -> Batch:
    """The batch of one training step; the same arguments give the same batch."""
    rng = np.random.default_rng([seed, step])
    if not spec.text:
        return _vision_batch(rng, spec)
    videos, rows, behind = [], [], []
    # Looking up by kind, before and after need the most practice, the other kinds come along.
    weights = dict(zip(QUESTION_KINDS, (0.32, 0.05, 0.09, 0.27, 0.27), strict=True))
    for _ in range(spec.videos):
        video = sample_video(
            rng, frames=spec.frames, scenes=spec.scenes, digit_share=spec.digit_share, jitter=spec.jitter
        )
        videos.append(render(video))
        asked = sample_questions(rng, video, spec.pairs, weights)
        rows.append([(add_filler(rng, question.text, 0.05), question.answer) for question in asked])
        behind.append(asked)
    pixels = to_pixels(np.stack([video.frames for video in videos]))
    kept = np.stack([keep_tokens(rng, video.coverage, spec.keep) for video in videos])
    return Batch(
        pixels=augment(pixels, rng),
        kept=torch.from_numpy(kept),
        vision_labels=dense_labels(videos),
        labels=dense_labels(videos, kept),
        text=pack_pairs(prompts, rows, pad_id, behind),
        vision=spec.vision,
    )
