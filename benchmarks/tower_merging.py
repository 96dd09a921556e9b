"""Other ways to merge patches inside a vision tower, over moving footage: answers, and what is left of the work.

    python -m benchmarks.tower_merging windows --json docs/data/tower-windows.json
    python -m benchmarks.tower_merging dense --json docs/data/tower-dense.json

Both ask about photographs over footage that runs on and that is cut, as ``benchmarks.tower merging`` does, with all
tokens and at ``cost=0.3``. ``windows`` takes a real pretrained DINOv2-S most of whose blocks attend within windows, as
in Qwen2.5-VL, and the decoder that was trained behind it (``training/README.md``, "Photographs": it has to be trained
first). Those most alike of a frame merge, also across windows, as ``tower="tome"`` has it, or in other ways. Each
window has a class token, which ``framefusion.hf.towers.tome.Run`` does not know, so the rule is here again.
``dense`` takes the DINOv2-S as it is and, beside ``tower="tome"``, what was tried and left out: whole frames that are
alike merge behind the third block (the idea of EarlyTom, arXiv 2605.30010), and patches take the output of the patch
most alike at or next to their place in the frame before.

A row that runs through a block is a unit of work. Seed 0 is for the report, seed 1 was for choosing.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, normalize, pad

from framefusion import FrameFusion, ToMe, session
from framefusion.asking.frames import video_of_frames
from framefusion.asking.loading import LoadedModel, load
from framefusion.asking.provenance import versions
from framefusion.evaluation.checkpoints import open_model
from framefusion.evaluation.dinov2 import load_dinov2
from framefusion.evaluation.needle import NeedleVideo
from framefusion.evaluation.needle.photo_set import load_photos
from framefusion.evaluation.photos import ASKED, put_together, stamps
from framefusion.evaluation.scoring import exact_match
from framefusion.evaluation.videoneedle import SECONDS
from framefusion.hf.towers import packed, running, tome
from framefusion.hf.towers.base import Rows
from framefusion.hf.towers.views import ViewTower
from training.windowed import FULL, WindowedEncoder, windowed

BLOCKS, GRID = 12, 12
"""Of the tower; and patches across and down a frame."""
PLACES = 1 + GRID * GRID
"""Rows of a frame, the class token first."""
EARLY = 3
"""The blocks that all rows run through before frames merge, or patches take what was there before."""
ALIKE = 0.9
"""Cosine of frames that are alike."""
KIND = ViewTower()
DECODERS = {"all tokens": FrameFusion(keep=1.0), "cost=0.3": FrameFusion(cost=0.3)}
WORK = {"0.75": 0.75, "2/3": 2 / 3}
Way = Callable[[int], running.Run | None]
"""Of the number of frames, the run of the tower."""

SCHEDULES: dict[str, Callable[[int], float]] = {
    "even": lambda block: block / (BLOCKS - 1),
    "late": lambda block: (block / (BLOCKS - 1)) ** 1.5,
    "early": lambda block: (block / (BLOCKS - 1)) ** 0.5,
    "behind full blocks": lambda block: sum(full < block for full in FULL) / (len(FULL) - 1),
    "at once": lambda block: float(block >= BLOCKS // 3),
}
"""How much of what merges in all has merged before a block."""


def shares(schedule: str, work: float) -> list[float]:
    """Share of the patches that run through each block, ``work`` on average."""
    merged = [SCHEDULES[schedule](block) for block in range(BLOCKS)]
    return [1 - (1 - work) * BLOCKS / sum(merged) * own for own in merged]


class Merging(tome.Run):
    """Patches of a tower with windows merge; as in ``tower="tome"`` with ``group="frame", across=True``.

    Args:
        frames: of the video.
        side: patches across and down a window.
        work: share of the patches that run through a block, on average.
        schedule: of :data:`SCHEDULES`.
        group: as many merge in every ``"window"``, ``"frame"`` or in the whole ``"video"``, those most alike in it.
        across: patches merge with any of their frame, not of their window alone.
        keys: they are compared by the keys of the block, mean over its heads, instead of its hidden states.
        implementation: of attention.
    """

    def __init__(
        self,
        frames: int,
        *,
        side: int,
        work: float,
        schedule: str = "even",
        group: str = "window",
        across: bool = False,
        keys: bool = False,
        implementation: str,
    ) -> None:
        own = (GRID // side) ** 2
        super().__init__([[1 + side * side] * BLOCKS] * (frames * own), 1, implementation)
        self.shares, self.keys = shares(schedule, work), torch.empty(0) if keys else None
        # Numbers of neighbouring windows: in which patches look for a partner, and in which those most alike merge.
        self.partners = [own] * frames if across else [1] * (frames * own)
        self.groups = {"window": [1] * (frames * own), "frame": [own] * frames, "video": [own * frames]}[group]
        self.whole = [windows * side * side for windows in self.groups]
        self.patch = torch.tensor([False, *[True] * (side * side)]).repeat(frames * own)

    def attend(
        self, module: Any, query: Tensor, key: Tensor, value: Tensor, function: Callable[..., Any], **kwargs: Any
    ) -> Tensor:
        """Notes the keys."""
        if self.keys is not None:
            self.keys = key[0].mean(0)
        return super().attend(module, query, key, value, function, **kwargs)

    def _matched(self, index: int, hidden: Tensor) -> tuple[Tensor, Tensor, list[int]] | None:
        rows, patches = self.patch.nonzero()[:, 0], [length - 1 for length in self._lengths]
        compared = (hidden if self.keys is None else self.keys)[rows]
        scores, targets = _pairs(compared, _sums(patches, self.partners))
        sources, first = [], 0
        for count, whole in zip(_sums(patches, self.groups), self.whole, strict=True):
            own = scores[first : first + count]
            merge = min(count - round(whole * self.shares[index + 1]), int((own > -torch.inf).sum()))
            sources.append(first + own.argsort(descending=True, stable=True)[: max(0, merge)])
            first += count
        chosen = torch.cat(sources)
        if not len(chosen):
            return None
        left = torch.ones(len(hidden), dtype=torch.bool).scatter_(0, rows[chosen], False)
        place = left.cumsum(0) - 1
        place[rows[chosen]] = place[rows[targets[chosen]]]
        self.patch = self.patch[left]
        return place, left.nonzero()[:, 0], [int(part.sum()) for part in left.split(self._lengths)]


def _sums(numbers: Sequence[int], lengths: Sequence[int]) -> list[int]:
    """The sum of each run of neighbours."""
    totals = [0, *accumulate(numbers)]
    return [totals[end] - totals[first] for first, end in pairwise([0, *accumulate(lengths)])]


def _pairs(rows: Tensor, lengths: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Within runs of rows, for every second row its most similar of the others: ``(R,)`` similarity, -inf for rows that
    look for none, and ``(R,)`` int64."""
    unit = normalize(rows.float(), dim=-1)
    scores, targets = torch.full((len(rows),), -torch.inf), torch.arange(len(rows))
    firsts = list(accumulate([0, *lengths[:-1]]))
    for length in {length for length in lengths if length > 1}:
        own = torch.tensor([first for first, n in zip(firsts, lengths, strict=True) if n == length])
        places = own[:, None] + torch.arange(length)
        best, nearest = (unit[places[:, 1::2]] @ unit[places[:, ::2]].transpose(1, 2)).max(-1)
        scores[places[:, 1::2]] = best
        targets[places[:, 1::2]] = places[:, ::2].gather(1, nearest)
    return scores, targets


class WholeFrames(tome.Run):
    """Behind the third block neighbouring frames merge, place by place: those most alike, by the mean cosine of their
    rows, until the work is as said; or those more alike than ``above``."""

    def __init__(self, frames: int, implementation: str, *, work: float = 1.0, above: float | None = None) -> None:
        super().__init__([[PLACES] * BLOCKS] * frames, 1, implementation)
        self.count, self.above = round(frames * (1 - work) * BLOCKS / (BLOCKS - EARLY)), above

    def _matched(self, index: int, hidden: Tensor) -> tuple[Tensor, Tensor, list[int]] | None:
        if index + 1 != EARLY:
            return None
        frames = hidden.view(-1, PLACES, hidden.shape[1])
        alike = cosine_similarity(frames[1:], frames[:-1], dim=-1).mean(1)
        merges = torch.zeros(len(frames), dtype=torch.bool)
        if self.above is None:
            merges[1 + alike.argsort(descending=True)[: self.count]] = True
        else:
            merges[1:] = alike > self.above
        inside = torch.arange(PLACES)
        place = ((~merges).cumsum(0) - 1)[:, None] * PLACES + inside
        kept = (~merges).nonzero() * PLACES + inside
        return place.flatten(), kept.flatten(), [0 if gone else PLACES for gone in merges.tolist()]

    def attend(
        self, module: Any, query: Tensor, key: Tensor, value: Tensor, function: Callable[..., Any], **kwargs: Any
    ) -> Tensor:
        """Frames that merged are empty."""
        self._bounds = sorted(set(self._bounds))
        return super().attend(module, query, key, value, function, **kwargs)


class FrameBefore(packed.Run):
    """Behind the third block patches take the output of the patch at or next to their place in the frame before that is
    most alike by hidden states, those of the video most alike to theirs, until the work is as said. They stay keys."""

    def __init__(self, frames: int, implementation: str, *, work: float) -> None:
        everything = torch.arange(frames * PLACES)
        super().__init__(Rows(everything, everything, 1), implementation)
        self.taken = round(frames * PLACES * (1 - work) * BLOCKS / (BLOCKS - EARLY))

    def enter(
        self, index: int, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments of a block: all rows of the first ones."""
        if index < EARLY:
            return args, kwargs
        if index == EARLY:
            self.rows = self._chosen(args[0])
        return super().enter(index - EARLY, args, kwargs)

    def attend(
        self, module: Any, query: Tensor, key: Tensor, value: Tensor, function: Callable[..., Any], **kwargs: Any
    ) -> Tensor:
        """Attention frame by frame."""
        if not self.chunks:
            return function(module, query, key, value, None, **kwargs)[0]
        return super().attend(module, query, key, value, function, **kwargs)

    def _chosen(self, hidden: Tensor) -> Rows:
        """``hidden`` is ``(T, 145, D)``."""
        unit = normalize(hidden.float(), dim=-1)[:, 1:].unflatten(1, (GRID, GRID))
        # (T - 1, 12, 12, 9): of the patches of each frame to those around their place in the frame before.
        around = [
            (unit[1:] * pad(unit[:-1], (0, 0, 1, 1, 1, 1))[:, y : y + GRID, x : x + GRID]).sum(-1)
            for y in range(3)
            for x in range(3)
        ]
        best, which = torch.stack(around, -1).max(-1)
        taken = torch.zeros(best.numel(), dtype=torch.bool)
        taken[best.flatten().argsort(descending=True)[: self.taken]] = True
        taken, number = taken.view_as(best), torch.arange(len(hidden) * PLACES).view(-1, PLACES)
        latest = number.clone()
        rows, columns = torch.meshgrid(torch.arange(GRID), torch.arange(GRID), indexing="ij")
        for frame in range(1, len(hidden)):
            near = (rows + which[frame - 1] // 3 - 1).clamp(0, GRID - 1) * GRID
            near += (columns + which[frame - 1] % 3 - 1).clamp(0, GRID - 1)
            before = latest[frame - 1, 1:][near]
            latest[frame, 1:] = torch.where(taken[frame - 1], before, number[frame, 1:].view(GRID, GRID)).flatten()
        kept = (latest == number).flatten()
        return Rows(kept.nonzero()[:, 0], (kept.cumsum(0) - 1)[latest.flatten()], 1)


class Watched:
    """The vision tower of a model, whose calls go one way; outputs of one video are remembered.

    Args:
        tower: with or without windows.
        rows: that run through its blocks, of a frame.
    """

    def __init__(self, tower: Any, rows: int = PLACES) -> None:
        self.implementation, self.whole = tower.config._attn_implementation, rows
        *_, undo = running.hooks(KIND, tower)
        if isinstance(tower.encoder, WindowedEncoder):
            # It gives all rows again, in the order of the picture.
            undo()
        for block in KIND.blocks(tower):
            block.register_forward_pre_hook(self._count)
        self._encode, tower.forward = tower.forward, self._forward
        self.begin(_whole)

    def begin(self, way: Way) -> None:
        """Another video, or another way."""
        self.way, self.rows, self.share, self.seconds = way, 0, 0.0, 0.0
        self._known: dict[int, Any] = {}

    def _count(self, block: Any, args: tuple[Any, ...]) -> None:
        self.rows += args[0].flatten(0, -2).shape[0]

    def _forward(self, pixel_values: Tensor, **kwargs: Any) -> Any:
        # A session encodes a frame again for what is said behind it.
        frames = len(pixel_values)
        if frames not in self._known:
            self.rows, started = 0, time.process_time()
            with running.running(self.way(frames)):
                self._known[frames] = self._encode(pixel_values, **kwargs)
            if frames > 1:
                self.seconds = time.process_time() - started
                self.share = self.rows / (frames * self.whole * BLOCKS)
        return self._known[frames]


def answers(
    loaded: LoadedModel,
    watched: Watched,
    videos: Sequence[NeedleVideo],
    ways: Mapping[str, Way],
    decoders: Mapping[str, FrameFusion],
) -> Any:
    """Right answers by way and decoder, those lost and gained against the whole tower, and what is left of its work."""
    right: dict[tuple[str, str], set[str]] = {(way, name): set() for way in ways for name in decoders}
    work: dict[str, list[tuple[float, float]]] = {way: [] for way in ways}
    for video in videos:
        shown = video_of_frames(video.frames, np.arange(len(video.frames)) * SECONDS / len(video.frames))
        for way, make in ways.items():
            watched.begin(make)
            for name, settings in decoders.items():
                with session(loaded.model, loaded.processor, settings, chunk=len(shown), max_new_tokens=8) as talk:
                    talk.add(shown)
                    replies = talk.ask_all([question.text for question in video.questions])
                right[way, name] |= {
                    f"{video.id}/{number}"
                    for number, (reply, question) in enumerate(zip(replies, video.questions, strict=True))
                    if exact_match(reply.text, question.answer)
                }
            work[way].append((watched.share, watched.seconds))
    found = {}
    for way in ways:
        share, seconds = np.mean(work[way], axis=0)
        found[way] = {"work": round(float(share), 3), "CPU seconds a video": round(float(seconds), 2)} | {
            name: {
                "right": len(right[way, name]),
                "lost": len(right["all patches", name] - right[way, name]),
                "gained": len(right[way, name] - right["all patches", name]),
            }
            for name in decoders
        }
        sys.stdout.write(f"{way:44} {json.dumps(found[way])}\n")
    return found


def dense(watched: Watched) -> dict[str, Way]:
    """Ways for the DINOv2-S as it is."""
    own = watched.implementation
    ways: dict[str, Way] = {"all patches": _whole}
    for name, work in WORK.items():
        counts = ToMe(work).counts(PLACES, BLOCKS, 1)
        ways[f"tome, {name}"] = partial(_of_counts, own, [counts])
        ways[f"whole frames, {name}"] = partial(WholeFrames, implementation=own, work=work)
        ways[f"patch of the frame before, {name}"] = partial(FrameBefore, implementation=own, work=work)
    ways[f"whole frames more alike than {ALIKE}"] = partial(WholeFrames, implementation=own, above=ALIKE)
    return ways


def within(watched: Watched, side: int) -> dict[str, Way]:
    """Ways for windows of so many patches a side."""
    own = watched.implementation
    ways: dict[str, Way] = {"all patches": _whole}
    for name, work in WORK.items():
        for title, how in {
            "as many in every window": {},
            "windows of a frame compete": {"group": "frame"},
            "windows of the video compete": {"group": "video"},
            "with any patch of the frame": {"group": "frame", "across": True},
            "compared by keys": {"keys": True},
            "behind full blocks": {"schedule": "behind full blocks"},
            "behind full blocks, and windows compete": {"schedule": "behind full blocks", "group": "frame"},
            "more merge late": {"schedule": "late"},
            "more merge early": {"schedule": "early"},
            "all merge behind the fourth block": {"schedule": "at once"},
        }.items():
            make: Any = partial(Merging, side=side, work=work, implementation=own, **how)
            ways[f"{title}, {name}"] = make
    return ways


def _whole(frames: int) -> None:
    """The tower's own run."""


def _of_counts(implementation: str, frame: list[list[int]], frames: int) -> running.Run:
    """The library's run, with these rows of the frame or windows of each frame."""
    return tome.Run(frame * frames, 1, implementation)


def open_windowed(checkpoint: Path, side: int) -> LoadedModel:
    """The model of a decoder that was trained behind windows."""
    with tempfile.TemporaryDirectory() as folder:
        put_together(checkpoint, load_dinov2(), Path(folder) / "whole")
        loaded = load(Path(folder) / "whole", device="cpu")
    windowed(loaded.model.model.vision_tower, side)
    return loaded


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["windows", "dense"])
    parser.add_argument("--side", type=int, default=6, help="patches across and down a window")
    parser.add_argument("--checkpoint", type=Path, help="of windows; default the export of training/README.md")
    parser.add_argument("--ways", nargs="*", metavar="WORDS", help="only ways whose name has one of these in it")
    parser.add_argument("--decoders", nargs="*", choices=DECODERS, default=list(DECODERS))
    parser.add_argument("--videos", type=int, default=24)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    run = Path(f"training/runs/photos-windows-{args.side}/checkpoint")
    own = args.what == "windows"
    loaded = (
        open_windowed(args.checkpoint or run, args.side) if own else open_model({"model": "photos", "device": "cpu"})
    )
    windows = (GRID // args.side) ** 2 if own else 1
    watched = Watched(loaded.model.model.vision_tower, windows + GRID * GRID)
    ways = within(watched, args.side) if own else dense(watched)
    if args.ways:
        asked = ["all patches", *args.ways]
        ways = {name: way for name, way in ways.items() if any(words in name for words in asked)}
    videos = load_photos(stamps(), 16, args.videos, args.seed, kinds=ASKED)
    result = {
        "what": args.what,
        **({"patches a side of a window": args.side, "blocks that attend to the whole frame": FULL} if own else {}),
        "machine": platform.machine(),
        "versions": versions(),
        "seed": args.seed,
        "videos": len(videos),
        "questions": sum(len(video.questions) for video in videos),
        "ways": answers(loaded, watched, videos, ways, {name: DECODERS[name] for name in args.decoders}),
    }
    if args.json is not None:
        args.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
