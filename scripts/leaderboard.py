"""Run the leaderboards of the docs and write their pages and pictures: ``make leaderboard``.

Each board is a directory in ``out`` that ``framefusion eval`` answers into, so that a run that was interrupted goes on
where it was, and answers that another version of the settings gave are asked again. Its ``summary.json``, which
names the commands, becomes ``docs/data/<name>.json``; ``docs/results/<name>.md`` and the pictures are written from that
alone (``--pages`` does nothing else). A test fails while a page differs from what this would write.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from framefusion.evaluation.leaderboard import page
from framefusion.evaluation.plots import draw

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
COMMON = "--batch 14 --dtype bfloat16 --timed 0 --no-plots"
DEFAULT = "segment-dpp-two-stage"
BUDGETS = "0.2,0.1,0.05"
OWN = "ours,published,controls"
BEST = f"text-only,uniform,{DEFAULT},segment-dpp-pyramid,cdpruner-input,holitom,divprune,fastvid,floc"
ALL = (DEFAULT, "published", "uniform")
SOME = (DEFAULT, "cdpruner-input", "divprune", "fastvid", "holitom", "floc", "unicomp", "flashvid", "sttm", "uniform")
# Those that kept most in the two stages of the Qwen2.5-VL; it answers more slowly.
STRONG = (
    *(DEFAULT, "cdpruner-input", "divprune", "fastvid", "holitom", "floc", "unicomp", "forestprune", "flashvid"),
    *("llava-scissor", "sttm", "uniform"),
)
# Those that kept most behind the first attention of the LLaVA-OneVision, and in their own stages.
BEHIND = (DEFAULT, "divprune", "floc", "llava-scissor", "sttm")
INSIDE = f"{DEFAULT},flashvid,floc,holitom,unicomp"


def placed(schedule: str, names: Sequence[str]) -> str:
    """Rules in the same stages."""
    return ",".join(f"{name}@{schedule}" for name in names)


@dataclass(frozen=True)
class Board:
    """A page.

    Attributes:
        title: of the page.
        data: what is asked, arguments of ``framefusion eval``.
        runs: methods and budgets, one command each.
        frames: of the videos; everything is asked with each number.
    """

    title: str
    data: str
    runs: Sequence[tuple[str, str]]
    frames: Sequence[int] = (16,)


BOARDS = {
    "leaderboard": Board(
        "Leaderboard",
        "--videos 60 --seed 0",
        (
            (placed("stages", ALL), BUDGETS),
            (OWN, BUDGETS),
            (DEFAULT, "0.3"),
        ),
    ),
    "leaderboard-schedules": Board(
        "Leaderboard, every rule in one stage before layer 0",
        "--videos 60 --seed 0",
        (
            (placed("input", ALL), BUDGETS),
            (placed("stages", (DEFAULT, f"{DEFAULT}:program-alone")), BUDGETS),
        ),
    ),
    "leaderboard-attention": Board(
        "Leaderboard, every rule in one stage behind the first attention",
        "--videos 60 --seed 0",
        ((placed("attention", ALL), BUDGETS),),
    ),
    "leaderboard-qwen": Board(
        "Leaderboard, with a Qwen2.5-VL",
        "--model bundled-qwen --videos 60 --seed 0",
        ((placed("stages", ALL), BUDGETS),),
        frames=(32,),
    ),
    "leaderboard-qwen-input": Board(
        "Leaderboard, with a Qwen2.5-VL, one stage before layer 0",
        "--model bundled-qwen --videos 60 --seed 0",
        ((placed("input", STRONG), BUDGETS),),
        frames=(32,),
    ),
    "leaderboard-qwen-inside": Board(
        "Leaderboard, with a Qwen2.5-VL, some rules behind the first attention and in their own stages",
        "--model bundled-qwen --videos 60 --seed 0",
        ((f"{placed('attention', BEHIND)},{INSIDE}", "0.2,0.1"),),
        frames=(32,),
    ),
    "leaderboard-frames": Board(
        "Leaderboard, with 8 and 64 frames",
        "--videos 60 --seed 0",
        ((f"{placed('stages', SOME)},uniform,fewer-frames", BUDGETS),),
        frames=(8, 64),
    ),
    "leaderboard-fresh": Board(
        "Leaderboard, on questions that no choice was made by",
        "--videos 60 --seed 2",
        (
            (placed("stages", SOME), "0.2,0.1"),
            (BEST, "0.1"),
        ),
    ),
}
"""The boards by name; the budgets are shares of the token-layers."""


def commands(name: str, jobs: int = 2) -> list[list[str]]:
    """What answers the questions of a board, in so many processes."""
    board = BOARDS[name]
    given = f"{board.data} {COMMON} --jobs {jobs} --out out/{name}"
    return [
        f"eval --frames {frames} {given} --methods {methods} --budgets {budgets}".split()
        for frames in board.frames
        for methods, budgets in board.runs
    ]


def text(name: str) -> str:
    """One of the pages."""
    summary = json.loads((DOCS / "data" / f"{name}.json").read_text(encoding="utf-8"))
    return page(summary, "make leaderboard", BOARDS[name].title, images="../images", prefix=f"{name}-", linked=True)


def run(name: str, jobs: int) -> None:
    """Answer what is not answered yet."""
    for command in commands(name, jobs):
        subprocess.run([sys.executable, "-m", "framefusion", *command], cwd=ROOT, check=True)
    shutil.copyfile(ROOT / "out" / name / "summary.json", DOCS / "data" / f"{name}.json")


def write(name: str) -> None:
    """Write a page and its pictures."""
    for part in json.loads((DOCS / "data" / f"{name}.json").read_text(encoding="utf-8"))["frames"]:
        draw(part, DOCS / "images", f"{name}-")
    (DOCS / "results" / f"{name}.md").write_text(text(name), encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run some boards, or all, and write their pages."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("boards", nargs="*", metavar="BOARD", help=f"of {', '.join(BOARDS)}; default all")
    parser.add_argument("--pages", action="store_true", help="write the pages from docs/data, ask nothing")
    parser.add_argument("--jobs", type=int, default=2, help="processes that answer; default 2")
    given = parser.parse_args(arguments)
    for name in given.boards:
        if name not in BOARDS:
            parser.error(f"there is no board {name!r}; there are {', '.join(BOARDS)}")
    for name in given.boards or BOARDS:
        if not given.pages:
            run(name, given.jobs)
        write(name)


if __name__ == "__main__":
    main()
