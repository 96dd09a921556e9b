"""From a file to the first token: decoding, processor, vision tower, projector, decoder, with and without reduction.

    python -m benchmarks.end_to_end --json docs/data/end-to-end.json

CPU seconds of one thread, all plans in turns in one process. The model is the mid-size Qwen2.5-VL of
:mod:`benchmarks.sessions` with random weights, whose tower and decoder have the proportions of a 7B one, so the answers
mean nothing and the times do. The video is a real clip at its own resolution. Times are medians over the rounds,
factors medians over the rounds of two times of the same round.
"""

from __future__ import annotations

import argparse
import json
import platform
import shlex
import statistics
import sys
import time
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.sessions import mid_size
from framefusion import FrameFusion, assets, attach
from framefusion.asking.ask import generate_timed
from framefusion.asking.prompts import model_inputs
from framefusion.asking.provenance import versions
from framefusion.asking.video import read_video
from framefusion.hf.families import layouts_of
from framefusion.hf.shapes import EncoderCounter
from framefusion.hf.summary import head_flops, left_of_encoder
from framefusion.hf.timing import Times, timed
from framefusion.selection import warm_up
from framefusion.showing import units

CLIP = Path(assets.__file__).parent / "videos" / "concert.mp4"
PIXELS = 176 * 144
"""Of a frame of the clip."""
QUESTION = "What happens in the video?"
NEW_TOKENS = 4
ALL_TOKENS = "all tokens"


@dataclass(frozen=True)
class Way:
    """A way to a shorter time.

    Attributes:
        name: in tables.
        settings: of the reduction; None for none.
        frames: the share of the frames that are shown at all.
        pixels: the share of the pixels of a frame that the processor leaves.
    """

    name: str
    settings: FrameFusion | None = None
    frames: float = 1.0
    pixels: float = 1.0


PLANS = (
    Way(ALL_TOKENS),
    Way("the default, cost=0.3", FrameFusion()),
    Way("cost=0.2", FrameFusion(cost=0.2)),
    Way("cost=0.1", FrameFusion(cost=0.1)),
)


@dataclass(frozen=True)
class Turn:
    """One answer: seconds of its parts, visual tokens of the prompt, their mean share over the layers, and the share of
    the video that the tower encoded."""

    times: Times
    visual_tokens: int
    mean_share: float
    flops: dict[str, float | None]
    tower_share: float | None = None


class Bench:
    """A model, its processor and a clip, ready to be asked.

    Args:
        model: from a file to the first token of its answers.
        processor: the model's.
        clip: that is asked about.
        pixels: of a frame, as the processor leaves it; None for a processor that makes frames of one size.
    """

    def __init__(self, model: Any, processor: Any, clip: Path = CLIP, pixels: int | None = PIXELS) -> None:
        self.model, self.processor = model, processor
        self.clip, self.pixels = clip, pixels
        self.counter = EncoderCounter(self.model.base_model)
        warm_up(self.model.dtype)

    def turn(self, way: Way, frames: int, clip: Path | None = None) -> Turn:
        """Answer once, about another clip if one is given."""
        if self.pixels is not None:
            size = round(self.pixels * way.pixels)
            self.processor.video_processor.size = {"shortest_edge": size, "longest_edge": size}
        begin = time.process_time()
        video = read_video(clip or self.clip, frames=max(1, round(frames * way.frames)))
        decoded = time.process_time()
        inputs = model_inputs([video], QUESTION, self.model, self.processor)
        processed = time.process_time()
        reduction = nullcontext() if way.settings is None else attach(self.model, way.settings)
        with reduction as run, timed(self.model, time.process_time) as clock:
            made = generate_timed(self.model, self.processor, inputs, NEW_TOKENS, read=time.process_time)
        assert clock.times is not None
        known = replace(clock.times, decode=decoded - begin, processor=processed - decoded)
        (layout,) = layouts_of(self.model, inputs)
        summary = None if run is None else run.summary()
        share = None if summary is None else summary.tower_share
        encoder = self.counter.flops(clock.encodings)
        return Turn(
            times=known.answered(made.seconds_to_first_token, made.seconds_per_token),
            visual_tokens=len(layout),
            mean_share=1.0 if summary is None else summary.mean_share,
            flops={
                "encoder": None if encoder is None else left_of_encoder(encoder.total, encoder.projector, share),
                "decoder": None if summary is None else summary.flops_after,
                "decoder with all tokens": None if summary is None else summary.flops_before,
                "head": head_flops(self.model),
            },
            tower_share=share,
        )

    def rounds(self, ways: tuple[Way, ...], frames: int, count: int) -> list[list[Turn]]:
        """For each way its turns, one a round."""
        turns: list[list[Turn]] = [[] for _ in ways]
        for number in range(count):
            for way, mine in zip(ways, turns, strict=True):
                mine.append(self.turn(way, frames))
                said = f"{frames} frames, round {number + 1}, {way.name}: {mine[-1].times.first_token:.1f} s\n"
                sys.stderr.write(said)
        return turns


def rows_of(ways: tuple[Way, ...], turns: list[list[Turn]]) -> list[dict[str, Any]]:
    """A row for each way; factors are against the first one."""
    rows = []
    for way, mine in zip(ways, turns, strict=True):
        rows.append(
            {
                "plan": way.name,
                "visual_tokens": mine[-1].visual_tokens,
                "mean_share": mine[-1].mean_share,
                "tower_share": _mean([turn.tower_share for turn in mine]),
                "seconds": Times.median([turn.times for turn in mine]).as_dict(),
                "end_to_end_factor": _factor(turns[0], mine, "first_token"),
                "decoder_factor": _factor(turns[0], mine, "prefill"),
                "flops": mine[-1].flops,
                "first_token_of_each_round": [turn.times.first_token for turn in mine],
            }
        )
    return rows


def _mean(shares: list[float | None]) -> float | None:
    known = [share for share in shares if share is not None]
    return statistics.mean(known) if known else None


def _factor(first: list[Turn], mine: list[Turn], part: str) -> float:
    pairs = zip(first, mine, strict=True)
    return statistics.median(getattr(a.times, part) / getattr(b.times, part) for a, b in pairs)


def table(rows: list[dict[str, Any]], frames: int) -> str:
    """Markdown; seconds to three digits."""
    names = ("decode", "processor", "tower", "projector", "prefill", "first_token", "per_token")
    lines = []
    for row in rows:
        seconds = [units.seconds_of(row["seconds"][name]) for name in names]
        factors = [units.factor(row["end_to_end_factor"]), units.factor(row["decoder_factor"])]
        cells = [f"{frames} ({row['visual_tokens']:,})", row["plan"], *seconds, f"**{factors[0]}**", factors[1]]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


COLUMNS = ("frames (visual tokens)", "plan", "decode", "processor", "tower", "projector", "prefill")
COLUMNS += ("first token", "further", "end to end", "decoder")
HEADING = f"| {' | '.join(COLUMNS)} |\n|---|---|{'---:|' * (len(COLUMNS) - 2)}"


def machine() -> dict[str, Any]:
    """What the times are of."""
    return {
        "command": shlex.join(["python", "-m", f"benchmarks.{Path(sys.argv[0]).stem}", *sys.argv[1:]]),
        "machine": f"{platform.machine()}, 1 thread, fp32, CPU time",
        "versions": dict(versions()),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frames", type=int, nargs="+", default=[32, 64])
    parser.add_argument("--rounds", type=int, nargs="+", default=[3], help="one number, or one for each of --frames")
    parser.add_argument("--clip", type=Path, default=CLIP)
    parser.add_argument("--pixels", type=int, default=PIXELS, help="of a frame, as the processor leaves it")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    counts = given.rounds * len(given.frames) if len(given.rounds) == 1 else given.rounds
    if len(counts) != len(given.frames):
        parser.error(f"--rounds has {len(counts)} numbers, --frames has {len(given.frames)}")
    torch.set_num_threads(1)
    bench = Bench(*mid_size(), given.clip, given.pixels)
    bench.rounds(PLANS, 4, 1)
    found: list[dict[str, Any]] = []
    sys.stdout.write(f"{HEADING}\n")
    for frames, count in zip(given.frames, counts, strict=True):
        rows = rows_of(PLANS, bench.rounds(PLANS, frames, count))
        found.append({"frames": frames, "rounds": count, "plans": rows})
        sys.stdout.write(f"{table(rows, frames)}\n")
        sys.stdout.flush()
    if given.json is not None:
        about = {**machine(), "clip": given.clip.name, "pixels": given.pixels}
        given.json.write_text(json.dumps({**about, "runs": found}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
