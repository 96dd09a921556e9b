"""First phase: the vision side alone learns what lies under each visual token, from crowded single frames."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from model import TOKENS_PER_FRAME
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, rms_norm

from framefusion.evaluation.needle.footage import Clip, excerpt
from framefusion.evaluation.needle.objects import COLOR_NAMES, KINDS, Role, Thing, draw
from framefusion.evaluation.needle.scenes import FRAME_SIZE, TOKEN_GRID, sample_names, sample_scene

SEEN, NOTHING = 0.15, 0.03
"""A token shows a thing that covers at least this share of it, and background if all cover less than the other."""
IGNORE = -100
SIZES = {"color": len(COLOR_NAMES) + 1, "kind": len(KINDS) + 1, "column": TOKEN_GRID, "row": TOKEN_GRID, "large": 2}


def to_pixels(frames: np.ndarray) -> Tensor:
    """What the processor makes of 96-pixel frames: uint8 ``(…, H, W, 3)`` to float32 ``(…, 3, H, W)`` in −1 … 1."""
    return torch.from_numpy(frames).movedim(-1, -3).float().div_(127.5).sub_(1.0)


def under_tokens(coverage: np.ndarray, things: Sequence[Thing]) -> dict[str, np.ndarray]:
    """What is under each token, int64, from coverage ``(things, …)``.

    ``color``, ``kind``: classes, the last is background. ``large``: whether the thing is a large one. -100: unclear.
    """
    owner, most = coverage.argmax(axis=0), coverage.max(axis=0)
    unclear = (most >= NOTHING) & (most < SEEN)
    colors = np.asarray([COLOR_NAMES.index(thing.color) for thing in things])
    kinds = np.asarray([KINDS.index(thing.kind) for thing in things])
    seen = most >= SEEN
    color = np.where(unclear, IGNORE, np.where(seen, colors[owner], len(COLOR_NAMES)))
    kind = np.where(unclear, IGNORE, np.where(seen, kinds[owner], len(KINDS)))
    is_large = np.asarray([thing.role == "large" for thing in things])[owner]
    large = np.where(seen, is_large, IGNORE)
    return {name: part.astype(np.int64) for name, part in (("color", color), ("kind", kind), ("large", large))}


STEPS = (1 / 3, 1 / 5, 1 / 7, 1 / 15)
"""Parts of its path that a thing moves from one frame to the next, in scenes of 4 to 16 frames."""


def crowd(rng: np.random.Generator, clips: Sequence[Clip], frames: int = 1) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """One crowded slot, uint8 ``(frames, 96, 96, 3)``, with what is under each of its 64 tokens."""
    roles: list[Role] = ["large", "small", "needle", "clutter"]
    roles += [(("large", "needle", "clutter", "small")[i]) for i in rng.integers(4, size=3)]
    # Handwriting takes the most practice.
    shares = {role: 0.7 * (role != "small") for role in roles}
    scene = sample_scene(rng, roles, sample_names(rng, roles, shares), "static", "train")
    canvas = excerpt(rng, clips, frames, cut=float(rng.random() < 0.5), seconds=0.2)
    cell = FRAME_SIZE // TOKEN_GRID
    step = float(rng.choice(STEPS))
    start = rng.uniform(0.0, 1.0 - step * (frames - 1))
    shown = rng.integers(frames, size=len(scene.things))
    coverage = np.zeros((frames, len(scene.things), TOKEN_GRID, TOKEN_GRID), dtype=np.float32)
    for frame in range(frames):
        for number, thing in enumerate(scene.things):
            if thing.role != "needle" or shown[number] == frame:
                alpha = draw(canvas[frame], thing, start + step * frame)
                coverage[frame, number] = alpha.reshape(TOKEN_GRID, cell, TOKEN_GRID, cell).mean(axis=(1, 3))
    seen = coverage.max(axis=0).reshape(len(scene.things), -1)
    return np.round(canvas).astype(np.uint8), under_tokens(seen, scene.things)


@lru_cache(maxsize=1)
def _noise_bank() -> Tensor:
    return torch.randn(1 << 23, generator=torch.Generator().manual_seed(1))


def augment(pixels: Tensor, rng: np.random.Generator) -> Tensor:
    """Brightness, contrast, noise and a slight blur, drawn per row of ``pixels`` ``(B, …, 3, H, W)``."""

    def amount(low: float, high: float) -> Tensor:
        drawn = rng.uniform(low, high, size=(len(pixels), *[1] * (pixels.ndim - 1)))
        return torch.from_numpy(drawn.astype(np.float32))

    if rng.random() < 0.4:
        images = pixels.reshape(-1, *pixels.shape[-3:])
        blurred = nn.functional.avg_pool2d(images, 3, stride=1, padding=1, count_include_pad=False)
        pixels = torch.lerp(pixels, blurred.view_as(pixels), amount(0.0, 0.5))
    # A slice of one long noise tensor: drawing fresh noise would cost more than drawing the frames.
    first = int(rng.integers(len(_noise_bank()) - pixels.numel()))
    noise = _noise_bank()[first : first + pixels.numel()].view_as(pixels)
    changed = pixels * amount(0.88, 1.1) + amount(-0.08, 0.08) + noise * amount(-0.05, 0.08).clamp_(min=0.0)
    return changed.clamp_(-1.0, 1.0)


class Crowds:
    """Batches of crowded slots of ``together`` frames by step, for the worker process.

    Most slots of a step come from a pool of earlier ones, under new brightness and noise: drawing them costs more than
    learning from them.
    """

    def __init__(
        self, seed: int, clips: Sequence[Clip], slots: int, together: int = 1, fresh: int = 16, held: int = 6000
    ) -> None:
        self.seed, self.clips, self.slots, self.together = seed, clips, slots, together
        self.fresh, self.held = fresh, held
        self.pool: list[tuple[np.ndarray, dict[str, np.ndarray]]] = []

    def __call__(self, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Pixels ``(slots, together, 3, 96, 96)`` and the labels under their tokens, each ``(slots, 64)``."""
        rng = np.random.default_rng([self.seed, step])
        fresh = self.fresh if len(self.pool) >= self.slots else self.slots
        drawn = [crowd(rng, self.clips, self.together) for _ in range(fresh)]
        drawn += [self.pool[i] for i in rng.integers(max(1, len(self.pool)), size=self.slots - fresh)]
        if len(self.pool) < self.held:
            self.pool += drawn[:fresh]
        else:
            for item in drawn[:fresh]:
                self.pool[int(rng.integers(self.held))] = item
        pixels = augment(to_pixels(np.stack([frames for frames, _ in drawn])), rng)
        cell = torch.arange(TOKENS_PER_FRAME).expand(self.slots, -1)
        labels = {name: torch.from_numpy(np.stack([seen[name] for _, seen in drawn])) for name in drawn[0][1]}
        return pixels, labels | {"column": cell % TOKEN_GRID, "row": cell // TOKEN_GRID}


class Directions(nn.Module):
    """Fixed orthonormal directions along which visual tokens are read.

    A free readout could amplify faint traces of a thing's kind, but the decoder's first layer would then have to
    find them again.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        basis = torch.empty(sum(SIZES.values()), width)
        nn.init.orthogonal_(basis)
        for name, rows in zip(SIZES, basis.split(list(SIZES.values())), strict=True):
            self.register_buffer(name, rows.clone())

    def forward(self, features: Tensor, labels: dict[str, Tensor]) -> tuple[Tensor, dict[str, float]]:
        """Loss of reading ``labels`` ``(…,)`` off ``features`` ``(…, D)``, and the share read right."""
        normed = rms_norm(features, features.shape[-1:], eps=1e-6)
        total, right = features.new_zeros(()), {}
        for name in SIZES:
            logits, target = (normed @ getattr(self, name).T).flatten(0, -2), labels[name].flatten()
            guess = logits.detach().argmax(-1) == target
            if name in ("column", "row", "large"):
                total = total + (0.3 if name == "large" else 0.1) * cross_entropy(logits, target, ignore_index=IGNORE)
                right[name] = float(guess[target != IGNORE].float().mean())
                continue
            # One token in five shows a thing; background would drown it.
            background = target == SIZES[name] - 1
            shown = (target != IGNORE) & ~background
            weight = 0.5 if name == "color" else 1.0
            loss = cross_entropy(logits[shown], target[shown]) + 0.3 * cross_entropy(
                logits[background], target[background]
            )
            total = total + weight * loss
            right[name] = float(guess[shown].float().mean())
            right[f"no {name}"] = float(guess[background].float().mean())
        return total, right
