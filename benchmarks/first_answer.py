"""What a first answer costs, and what the rule for ``backend="auto"`` on a CPU goes by.

    python -m benchmarks.first_answer command
    python -m benchmarks.first_answer surplus

``command`` runs ``framefusion ask`` on the bundled model and video in new processes: with nothing in Numba's cache, and
with the selection compiled before. CPU seconds of the process, user and system, as the operating system counts them.
``surplus`` relates what plain torch takes longer than compiled code to what ``framefusion.selection.automatic`` says
that it takes, in turns in one process with one thread.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

QUESTION = "which large thing came after the red circle?"
SHAPES = (
    (5, 205, 20, 96),
    (1, 1024, 410, 96),
    (8, 128, 64, 1024),
    (16, 196, 50, 1024),
    (64, 196, 98, 1024),
    (1, 4032, 400, 1024),
)
"""Segments, tokens and picks of each, columns of the features."""


def process_seconds(words: list[str], threads: int, cache: str) -> float:
    """CPU seconds of a process from its start to its end."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "NUMBA_CACHE_DIR": cache, "HF_HUB_OFFLINE": "1"}
    before = os.times()
    subprocess.run([sys.executable, *words], env=environment, check=True, stdout=subprocess.DEVNULL)
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


def command(rounds: int) -> None:
    """Print the seconds of a first answer."""
    from framefusion.assets import DEMO_VIDEO

    words = ["-m", "framefusion", "ask", str(DEMO_VIDEO), QUESTION]
    for threads in (1, 2):
        cold, warm = [], []
        for _ in range(rounds):
            with tempfile.TemporaryDirectory() as cache:
                cold.append(process_seconds(words, threads, cache))
                assert not list(Path(cache).rglob("*")), "something was compiled"
                process_seconds(["-c", "from framefusion.selection import warm_up; warm_up()"], threads, cache)
                warm.append(process_seconds(words, threads, cache))
        told = [
            f"{name} {statistics.median(own):.1f} ({min(own):.1f})" for name, own in (("cold", cold), ("warm", warm))
        ]
        print(f"{threads} threads, median (least) CPU s of {rounds}: {', '.join(told)}", flush=True)


def surplus(rounds: int) -> None:
    """Print what torch takes longer, and the estimate."""
    import torch

    from framefusion.selection import automatic, dispatch, warm_up
    from framefusion.selection.problem import Choices, make_problem

    torch.set_num_threads(1)
    warm_up()
    generator = torch.Generator().manual_seed(0)
    for segments, tokens, kept, dim in SHAPES:
        features = torch.randn(segments * tokens, dim, generator=generator)
        relevance = torch.rand(segments * tokens, generator=generator)
        ids = torch.arange(segments).repeat_interleave(tokens)
        problem = make_problem(features, relevance, ids, [kept] * segments, Choices(gamma=1.0))
        taken: dict[str, list[float]] = {"torch": [], "numba": []}
        for _ in range(rounds):
            for backend, own in taken.items():
                begin = time.process_time()
                dispatch.select(problem, backend)
                own.append(time.process_time() - begin)
        longer = 1e3 * (statistics.median(taken["torch"]) - statistics.median(taken["numba"]))
        said = 1e3 * automatic.surplus([(tokens, kept)] * segments, dim)
        print(f"{segments} × {tokens} → {kept}, D {dim}: {longer:.1f} ms longer, estimated {said:.1f}", flush=True)


def main() -> None:
    """Run one of the two."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["command", "surplus"])
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    {"command": command, "surplus": surplus}[given.what](given.rounds)


if __name__ == "__main__":
    main()
