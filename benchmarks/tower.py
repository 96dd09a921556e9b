"""What a vision tower that encodes only what changed, or merges patches, saves, and what it loses.

    python -m benchmarks.tower clips --json docs/data/tower-clips.json
    python -m benchmarks.tower time --json docs/data/tower-time.json
    python -m benchmarks.tower needle --json docs/data/tower-needle.json
    python -m benchmarks.tower still --rounds 16 --json docs/data/tower-still.json
    python -m benchmarks.tower still --rounds 8 --seed 21 --json docs/data/tower-still-21.json
    python -m benchmarks.tower merging --json docs/data/tower-merging.json

``clips`` encodes 24 frames of five clips with a real pretrained DINOv2-S, whole and in part, and compares the
outputs: the share of the work that was done, averaged over the blocks, and the mean cosine to the full encoding.
Beside the rule stand what is left out of it (no block over all units, frames never encoded whole, no keys and values
of unchanged places), the frame before in the place of the last encoded version, and whole frames, evenly spaced, for
the same work. ``time`` takes a mid-size Qwen2.5-VL with random weights (tower 32 × 160, decoder 14 × 768, the
proportions of a 7B one) from frames to the first token of an answer, CPU seconds of one thread, all ways in turns in
one process. ``needle`` asks both bundled checkpoints VideoNeedle, over footage that runs on and that is cut,
``still`` over single pictures of it with noise, and photographs over them, seen by a real DINOv2-S. ``merging`` asks
about photographs over footage that runs on and that is cut, seen by a real DINOv2-S whose patches merge
(``tower="tome"``), and both bundled checkpoints; and takes the time of the DINOv2-S.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks import footage
from benchmarks.sessions import cpu, mid_size
from framefusion import Changed, FrameFusion, ToMe, attach, session
from framefusion.asking.frames import video_of_frames
from framefusion.asking.prompts import model_inputs
from framefusion.asking.provenance import versions
from framefusion.asking.video import Video, read_video
from framefusion.evaluation import dinov2
from framefusion.evaluation import needle as drawn
from framefusion.evaluation.checkpoints import open_model
from framefusion.evaluation.footage import CLIPS, scaled
from framefusion.evaluation.needle import NeedleVideo
from framefusion.evaluation.needle.photo_set import load_photos
from framefusion.evaluation.photos import ASKED, stamps
from framefusion.evaluation.scoring import exact_match
from framefusion.evaluation.videoneedle import SECONDS
from framefusion.hf.families import find
from framefusion.hf.towers import packed, running, tome
from framefusion.hf.towers.base import rows_of
from framefusion.hf.towers.views import ViewTower, clip_of
from framefusion.reduction.changes import changed_units

FRAMES = 24
SIDE = 16
"""Patches across and down a frame of ``clips``."""
PIXELS = 336
"""Of each side of a frame of ``time``."""
LEVELS = (4.0, 8.0, 16.0)
KIND = ViewTower()
WAYS = {
    "all tokens": FrameFusion(keep=1.0),
    "all tokens, tower": FrameFusion(keep=1.0, tower="changed"),
    "cost=0.3": FrameFusion(cost=0.3),
    "cost=0.3, tower": FrameFusion(cost=0.3, tower="changed"),
    "cost=0.3, tower at 4 levels": FrameFusion(cost=0.3, tower="changed:4"),
    "cost=0.3, tower, no block over all": FrameFusion(cost=0.3, tower=Changed(full_blocks=0)),
}
OTHER_NOISE = ", other noise"
"""What ends the name of a way that is shown the same scenes with other noise: how many answers turn by that alone."""
STILL = WAYS | {
    f"all tokens{OTHER_NOISE}": FrameFusion(keep=1.0),
    f"cost=0.3{OTHER_NOISE}": FrameFusion(cost=0.3),
}
MERGING_WORK = {"tower at 0.75": 0.75, "tower at 2/3": 2 / 3}
MERGING = {
    "all tokens": FrameFusion(keep=1.0),
    **{f"all tokens, {way}": FrameFusion(keep=1.0, tower=ToMe(work)) for way, work in MERGING_WORK.items()},
    "cost=0.3": FrameFusion(cost=0.3),
    "cost=0.3, tower at 2/3": FrameFusion(cost=0.3, tower="tome"),
}
CHECKPOINTS = ("bundled", "bundled-qwen")


class WithoutContext(packed.Run):
    """Encoded patches that attend to those encoded with them alone."""

    def _chunks(self, bounds: Sequence[int], mask: Tensor | None) -> list[packed.Chunk]:
        return [chunk._replace(keys=torch.arange(chunk.first, chunk.end)) for chunk in super()._chunks(bounds, mask)]


def clips(rounds: int) -> dict[str, Any]:
    """Share encoded and cosine to the full encoding, clip by clip."""
    model, found = dinov2.load_dinov2(), {}
    for name, clip in CLIPS.items():
        frames = scaled(read_video(clip.path(), frames=FRAMES).frames, SIDE * dinov2.PATCH, SIDE * dinov2.PATCH)
        found[name] = _encoded(model, dinov2.pixels(frames))
        sys.stdout.write(f"{name:12} {json.dumps(found[name])}\n")
    return {"frames": FRAMES, "patches a frame": SIDE * SIDE, "clips": found}


def _encoded(model: Any, pixels: Tensor) -> dict[str, Any]:
    """``pixels`` is ``(T, 3, H, W)``."""
    clip = clip_of("video", pixels, model)
    scale = (torch.tensor(dinov2.STD) * 255)[clip.channels]
    everything = _outputs(model, pixels, None)
    blocks, found = len(KIND.blocks(model)), {}

    def tried(mask: Tensor, full: int, run: Any = packed.Run) -> dict[str, float]:
        """``full`` blocks, the last ones, run over all units."""
        encoded, output = mask.float().mean().item(), _outputs(model, pixels, mask, blocks - full, run)
        return {"work": (encoded * (blocks - full) + full) / blocks, "cosine": _cosine(output, everything)}

    for levels in LEVELS:
        rule = Changed(levels)
        full, mask = rule.full(blocks), changed_units(clip.units, clip.parts, scale, levels)
        rows: dict[str, Any] = {"encoded": mask.float().mean().item(), **tried(mask, full)}
        if levels == Changed().levels:
            count = max(1, round(rows["work"] * FRAMES))
            whole = torch.zeros_like(mask)
            whole[torch.linspace(0, FRAMES - 1, count + 1)[:-1].round().long()] = True
            rows["whole frames"] = tried(whole, 0)
            rows["no block over all"] = tried(mask, 0)
            rows["a third of the blocks over all"] = tried(mask, Changed(full_blocks=1 / 3).full(blocks))
            rows["without keys of unchanged"] = tried(mask, full, WithoutContext)
            rows["no frame whole"] = tried(changed_units(clip.units, clip.parts, scale, levels, 1.0), full)
            rows["against the frame before"] = tried(_from_frame_before(clip.units, scale, levels), full)
        found[f"{levels:g} levels"] = rows
    return json.loads(json.dumps(found), parse_float=lambda text: round(float(text), 3))


def _from_frame_before(units: Tensor, scale: Tensor, levels: float) -> Tensor:
    """The same rule, but compared with the frame before."""
    moved = ((units[1:] - units[:-1]) * scale).square().mean(-1).sqrt() > levels
    moved |= moved.float().mean(1, keepdim=True) > Changed().whole
    return torch.cat([torch.ones_like(moved[:1]), moved])


def _outputs(model: Any, pixels: Tensor, mask: Tensor | None, partial: int = 0, run: Any = packed.Run) -> Tensor:
    """``(T, P, D)``: the last hidden states of the patches; ``partial`` blocks run over what the mask says alone."""
    with ExitStack() as stack, torch.inference_mode():
        for undo in running.hooks(KIND, model):
            stack.callback(undo)
        if mask is not None:
            rows = rows_of([mask], 1, KIND.extra(model))
            stack.enter_context(running.running(run(rows, model.config._attn_implementation, partial)))
        return model(pixel_values=pixels).last_hidden_state[:, 1:]


def _cosine(one: Tensor, other: Tensor) -> float:
    return torch.nn.functional.cosine_similarity(one, other, dim=-1).mean().item()


def first_token(rounds: int) -> dict[str, Any]:
    """CPU seconds from frames to the first token."""
    model, processor = _large_frames()
    std = tuple(processor.image_processor.image_std)
    ways: dict[str, FrameFusion | None] = {
        "all tokens": None,
        "cost=0.3": FrameFusion(cost=0.3),
        "cost=0.3, tower": FrameFusion(cost=0.3, tower=Changed(std=std)),
        "cost=0.15, tower": FrameFusion(cost=0.15, tower=Changed(std=std)),
        "cost=0.3, tower, no block over all": FrameFusion(cost=0.3, tower=Changed(full_blocks=0, std=std)),
    }
    video = _square(read_video(CLIPS["pedestrians"].path(), frames=32))
    times: dict[str, list[float]] = {way: [] for way in ways}
    shares: dict[str, float | None] = {}
    for _ in range(rounds):
        for way, settings in ways.items():
            seconds, shares[way] = cpu(partial(_answered, model, processor, video, settings))
            times[way].append(seconds)
            sys.stdout.write(f"{way:28} {seconds:.2f}\n")
    middle = {way: statistics.median(own) for way, own in times.items()}
    fixed = {
        way: {
            "CPU seconds": round(seconds, 2),
            "times as fast": round(middle["all tokens"] / seconds, 2),
            "work of the tower": _rounded(shares[way]),
        }
        for way, seconds in middle.items()
    }
    everywhere = {name: _shares(model, processor, clip.path()) for name, clip in CLIPS.items()}
    tokens = int((model_inputs(video, "What is shown?", model, processor)["input_ids"]).shape[1])
    return {
        "frames": 32,
        "pixels": PIXELS,
        "tokens": tokens,
        "rounds": rounds,
        "pedestrians": fixed,
        "encoded of 32 frames": everywhere,
    }


def _shares(model: Any, processor: Any, path: Path) -> dict[str, Any]:
    """What share of the units of a Qwen2.5-VL would be encoded; nothing is."""
    inputs = model_inputs(_square(read_video(path, frames=32)), "What is shown?", model, processor)
    kind = find(model).tower
    assert kind is not None
    (clip,) = kind.clips(inputs, None, kind.module(model.base_model))
    scale = (torch.tensor(processor.image_processor.image_std) * 255)[clip.channels]
    return {
        f"{levels:g} levels": _rounded(changed_units(clip.units, clip.parts, scale, levels).float().mean().item())
        for levels in LEVELS
    }


def _rounded(share: float | None) -> float | None:
    return None if share is None else round(share, 3)


def _large_frames() -> tuple[Any, Any]:
    """The mid-size Qwen2.5-VL and its processor with patches of 14 pixels, as the real ones have."""
    from transformers import Qwen2_5_VLForConditionalGeneration

    model, processor = mid_size()
    config = model.config
    config.vision_config.update({"patch_size": 14, "window_size": 112})
    processor.video_processor.patch_size = 14
    processor.video_processor.size = {"longest_edge": PIXELS**2, "shortest_edge": PIXELS**2}
    torch.manual_seed(0)
    return Qwen2_5_VLForConditionalGeneration(config).eval(), processor


def _square(video: Video) -> Video:
    return video_of_frames(scaled(video.frames, PIXELS, PIXELS), np.asarray(video.timestamps, dtype=float))


def _answered(model: Any, processor: Any, video: Video, settings: FrameFusion | None) -> float | None:
    """Preprocess, encode, prefill, one token; the share of its work that the tower did."""
    inputs = model_inputs(video, "What is shown?", model, processor)
    with ExitStack() as stack, torch.inference_mode():
        run = None if settings is None else stack.enter_context(attach(model, settings))
        model.generate(**inputs, max_new_tokens=1, do_sample=False, pad_token_id=0)
        return None if run is None else run.summary().tower_share


def needle(rounds: int) -> dict[str, Any]:
    """Accuracy on VideoNeedle, over footage that runs on (``static``) and footage that is cut (``fast``)."""
    videos = drawn.load(16, 8 * rounds, 3)
    return {"videos": len(videos), "models": _answers([(video.footage, video) for video in videos])}


def still(rounds: int, seed: int = 5) -> dict[str, Any]:
    """Accuracy over one picture of the footage a scene, with the noise of a camera: photographs, and VideoNeedle."""
    pictures, count = footage.pictures(), 8 * rounds
    photos = load_photos(stamps(), 16, count, seed, kinds=ASKED, clips=pictures)
    needles = drawn.load(16, count, seed, clips=pictures)
    answers = _still(photos, ("photos",)) | _still(needles, CHECKPOINTS)
    return {"videos": len(footage.noisy(needles)), "seed": seed, "noise": footage.NOISE, "models": answers}


def _still(videos: Sequence[NeedleVideo], names: Sequence[str]) -> dict[str, Any]:
    shown, again = ([("still", video) for video in footage.noisy(videos, seed)] for seed in (0, 1))
    return _answers(shown, names, STILL, again)


def merging(rounds: int) -> dict[str, Any]:
    """Accuracy where patches merge, over footage that runs on and that is cut; and the time of a real tower."""
    photos = load_photos(stamps(), 16, 8 * rounds, 0, kinds=ASKED)
    answers = _answers([(video.footage, video) for video in photos], ("photos",), MERGING)
    needles = drawn.load(16, 8, 3)
    answers |= _answers([(video.footage, video) for video in needles], CHECKPOINTS, MERGING)
    return {"videos": len(photos), "models": answers, "time of the tower": _merging_time()}


def _merging_time() -> dict[str, Any]:
    """CPU seconds of a DINOv2-S for 16 frames of the pedestrians, in turns; and the cosine to the full encoding."""
    model = dinov2.load_dinov2()
    pixels = dinov2.pixels(scaled(read_video(CLIPS["pedestrians"].path(), frames=16).frames, PIXELS, PIXELS))
    counts = {way: _counts(pixels, ToMe(work)) for way, work in MERGING_WORK.items()}
    full, times = _merged_outputs(model, pixels, None), defaultdict(list)
    for _ in range(3):
        for way, own in {"all patches": None, **counts}.items():
            seconds, output = cpu(partial(_merged_outputs, model, pixels, own))
            times[way].append(seconds)
            found = _cosine(output, full)
            sys.stdout.write(f"{way:28} {seconds:.2f} {found:.4f}\n")
    middle = {way: statistics.median(own) for way, own in times.items()}
    return {
        way: {"CPU seconds": round(own, 2), "times as fast": round(middle["all patches"] / own, 2)}
        for way, own in middle.items()
    }


def _counts(pixels: Tensor, rule: ToMe) -> list[list[int]]:
    patches = (pixels.shape[-1] // dinov2.PATCH) ** 2
    return [rule.counts(patches + 1, 12, 1)] * len(pixels)


def _merged_outputs(model: Any, pixels: Tensor, counts: list[list[int]] | None) -> Tensor:
    """``(T, P, D)``: the last hidden states of the patches."""
    with ExitStack() as stack, torch.inference_mode():
        for undo in running.hooks(KIND, model):
            stack.callback(undo)
        if counts is not None:
            stack.enter_context(running.running(tome.Run(counts, 1, model.config._attn_implementation)))
        return model(pixel_values=pixels).last_hidden_state[:, 1:]


def _answers(
    videos: Sequence[tuple[str, NeedleVideo]],
    names: Sequence[str] = CHECKPOINTS,
    ways: Mapping[str, FrameFusion] = WAYS,
    again: Sequence[tuple[str, NeedleVideo]] | None = None,
) -> dict[str, Any]:
    """What checkpoints answer, by background; ``again`` are the same videos with other noise."""
    found: dict[str, Any] = {}
    for name in names:
        loaded = open_model({"model": name, "device": "cpu"})
        right: dict[tuple[str, str], set[str]] = defaultdict(set)
        shares: dict[tuple[str, str], list[float]] = defaultdict(list)
        total: dict[str, int] = defaultdict(int)
        for (kind, video), (_, other) in zip(videos, again or videos, strict=True):
            total[kind] += len(video.questions)
            for way, settings in ways.items():
                frames = (other if way.endswith(OTHER_NOISE) else video).frames
                shown = video_of_frames(frames, np.arange(len(frames)) * SECONDS / len(frames))
                with session(loaded.model, loaded.processor, settings, chunk=len(shown), max_new_tokens=8) as talk:
                    talk.add(shown)
                    replies = talk.ask_all([question.text for question in video.questions])
                    share = talk.summary().tower_share
                shares[kind, way] += [] if share is None else [share]
                right[kind, way] |= {
                    f"{video.id}/{number}"
                    for number, (reply, question) in enumerate(zip(replies, video.questions, strict=True))
                    if exact_match(reply.text, question.answer)
                }
        found[name] = {}
        for kind, count in total.items():
            rows = {way: (right[kind, way], right[kind, way.split(", ")[0]], shares[kind, way]) for way in ways}
            found[name][kind] = {"questions": count} | {
                way: {
                    "right": len(own),
                    "work of the tower": _rounded(statistics.mean(work)) if work else None,
                    "lost": len(without - own),
                    "gained": len(own - without),
                }
                for way, (own, without, work) in rows.items()
            }
        sys.stdout.write(f"{name:12} {json.dumps(found[name])}\n")
    return found


MEASURED: dict[str, Callable[..., dict[str, Any]]] = {
    "clips": clips,
    "time": first_token,
    "needle": needle,
    "still": still,
    "merging": merging,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=MEASURED)
    parser.add_argument("--rounds", type=int, default=3, help="of time; in needle and still: times 8 videos")
    parser.add_argument("--seed", type=int, help="of the questions of still")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    if args.seed is not None and args.what != "still":
        parser.error(f"--seed is of still, not of {args.what}")
    more = {} if args.seed is None else {"seed": args.seed}
    torch.set_num_threads(1)
    result = {
        "what": args.what,
        "machine": platform.machine(),
        "versions": versions(),
        **MEASURED[args.what](args.rounds, **more),
    }
    if args.json is not None:
        args.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
