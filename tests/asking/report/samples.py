"""Answers and reports made by hand, no model involved."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch

from framefusion.asking.report.data import FrameView, ReportData, SegmentRow, StageRow
from framefusion.asking.video import Video
from framefusion.hf.timing import Times
from framefusion.reduction.layout import VisualItem, VisualLayout
from framefusion.reduction.settings import FrameFusion
from framefusion.showing.tokens import DROPPED, KEPT, MERGED

TIMES = Times(0.02, 0.03, 0.09, 0.01, 0.05, 0.01, 0.004, 0.21)
NASTY = '<script>document.title="owned"</script>"\'&<img src=x onerror=alert(1)>'


def answer(*, stages=None, segments=None, question="what is it?", full=None, frames=6, grid=(3, 2, 2)):
    """As ``ask`` returns it, for a video of ``frames`` frames whose tokens start at column 2."""
    count, rows, columns = grid
    video = Video(
        frames=np.arange(frames, dtype=np.uint8)[:, None, None, None] * np.ones((1, 20, 30, 3), np.uint8),
        timestamps=np.arange(frames) * 0.5,
        indices=np.arange(frames),
        duration=frames * 0.5,
        source_fps=2.0,
        total_frames=frames,
        path=Path("some/where/clip.mp4"),
    )
    tokens = count * rows * columns
    summary = SimpleNamespace(
        visual_tokens_before=tokens,
        visual_tokens_after=4,
        tokens_per_layer=[tokens, 4],
        mean_share=0.5,
        flops_before=2e9,
        flops_after=1e9,
        kv_bytes_before=4096,
        kv_bytes_after=1024,
        reduction_milliseconds=2.0,
        tower_share=None,
        encoder_flops=3 * 10**9,
        projector_flops=10**8,
        head_flops=10**6,
    )
    return SimpleNamespace(
        text="a circle",
        question=question,
        seconds_to_first_token=0.25,
        seconds_total=0.5,
        new_tokens=2,
        summary=summary,
        stages=stages or [],
        layout=VisualLayout.of([VisualItem.run("video", grid, 2)]),
        segments=segments,
        settings=FrameFusion(),
        times=TIMES,
        full=full,
        timing="one run",
        media=(video,),
        names=("clip.mp4",),
        provenance={"versions": {"torch": "2.9"}},
    )


def stage(layer, kept, merged_into=None):
    return SimpleNamespace(
        layer=layer,
        kept=[torch.tensor(kept)],
        merged_into=None if merged_into is None else [torch.tensor(merged_into)],
        milliseconds=1.5,
    )


def data(text="what came after the red circle?", *, frames=5, compared=True, segmented=True, layers=4):
    """A report of ``frames`` frames in two segments; ``text`` stands wherever a text from outside does."""
    rng = np.random.default_rng(0)
    views = [
        FrameView(
            picture=rng.integers(0, 255, (48, 64, 3), dtype=np.uint8),
            states=rng.choice([DROPPED, MERGED, KEPT], (4, 6)).astype(np.uint8),
            seconds=float(i),
            segment=int(segmented and i >= 2),
            earlier=(rng.choice([DROPPED, KEPT], (4, 6)).astype(np.uint8),),
        )
        for i in range(frames)
    ]
    rows = []
    for number in sorted({view.segment for view in views}):
        members = [i for i, view in enumerate(views) if view.segment == number]
        rows.append(
            SegmentRow(
                number=number,
                first_frame=members[0],
                last_frame=members[-1],
                seconds=views[members[0]].seconds,
                tokens=24 * len(members),
                kept=sum(views[i].count(KEPT) for i in members),
                merged=sum(views[i].count(MERGED) for i in members),
            )
        )
    return ReportData(
        question=text,
        answer=text,
        full_answer=text if compared else None,
        video_name=text,
        duration=8.0,
        frames=views,
        segmented=segmented,
        segments=rows,
        stages=[StageRow(1, 40, 1.5), StageRow(2, 30, 2.5)],
        views=[StageRow(1, 40, 1.5), StageRow(2, 30, 2.5)],
        tokens_before=24 * frames,
        tokens_after=30,
        tokens_per_layer=[24 * frames, 40, *[30] * (layers - 2)],
        mean_share=0.4,
        flops_before=2.5e12,
        flops_after=1.0e12,
        kv_bytes_before=3 * 2**20,
        kv_bytes_after=2**20,
        seconds_to_first_token=0.15,
        full_seconds_to_first_token=0.3 if compared else None,
        timing=text,
        reduction_milliseconds=4.0,
        command=text,
        settings=[("model", text), ("torch", "2.9")],
        times=TIMES,
        full_times=replace(TIMES, prefill=0.2, first_token=0.36) if compared else None,
        encoder_flops=500 * 10**9,
        head_flops=10**9,
    )
