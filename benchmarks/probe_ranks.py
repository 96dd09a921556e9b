"""Whether the divergence of the next token ranks stages as labels do: both, for every candidate, on the same questions.

    python benchmarks/probe_ranks.py --model gemma3-270m --kinds what,where --videos 24 --json ranks.json
    python benchmarks/probe_ranks.py --draw ranks.png ranks.json other.json

The questions are those of the set `facts`, one prompt at a time. No model of yours needs this: `framefusion probe` does
without labels.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from framefusion import FrameFusion, attach
from framefusion.asking.probe import CANDIDATES, kl, next_token
from framefusion.evaluation.answering import best_choice
from framefusion.evaluation.checkpoints import open_model
from framefusion.evaluation.data import Question
from framefusion.evaluation.facts import Facts
from framefusion.evaluation.plots import require_matplotlib
from framefusion.evaluation.probing import probe_prompts
from framefusion.reduction.amounts import Stages, parse_stages, stages_text
from framefusion.reduction.schedule import STAGES

FRAMES = 16


def questions(data: Facts, places: list[int] | None) -> list[Question]:
    """Those of a data set; of each video only the ones at some places, if they are given."""
    by_video: dict[str, list[Question]] = {}
    for question in data.questions(FRAMES):
        by_video.setdefault(question.video, []).append(question)
    chosen = [[q for i, q in enumerate(asked) if places is None or i in places] for asked in by_video.values()]
    return [question for asked in chosen for question in asked]


def measure(loaded: Any, data: Facts, asked: list[Question], stages: list[Stages], cost: float) -> dict[str, Tensor]:
    """Per stages and question ``(S, Q)``: divergence, agreement and whether the answer is right; ``full`` ``(Q,)``."""
    found = {name: torch.zeros(len(stages), len(asked)) for name in ("divergence", "agreement", "right")}
    full_right = torch.zeros(len(asked))
    tokenizer = loaded.processor.tokenizer
    for number, question in enumerate(asked):
        (prompt,) = probe_prompts(loaded, data, FRAMES, [question])
        full = next_token(loaded.model, prompt)
        full_right[number] = best_choice(question.choices, full, tokenizer) == question.answer
        for place, shape in enumerate(stages):
            with attach(loaded.model, FrameFusion(cost=cost, stages=shape)):
                reduced = next_token(loaded.model, prompt)
            found["divergence"][place, number] = kl(full, reduced)
            found["agreement"][place, number] = full.argmax() == reduced.argmax()
            found["right"][place, number] = best_choice(question.choices, reduced, tokenizer) == question.answer
    return {**found, "full": full_right}


def rank_correlation(a: Tensor, b: Tensor) -> float:
    """Spearman's, of two ``(S,)`` statistics; equal values share their mean rank."""

    def ranks(values: Tensor) -> Tensor:
        below = (values[None, :] < values[:, None]).sum(1)
        same = (values[None, :] == values[:, None]).sum(1)
        return below + (same - 1) / 2

    return float(torch.corrcoef(torch.stack([ranks(a), ranks(b)]))[0, 1])


def paired(values: Tensor, default: Tensor) -> tuple[float, float]:
    """Mean difference to the default, and its standard error."""
    difference = values - default
    return float(difference.mean()), float(difference.std() / len(difference) ** 0.5)


def report(stages: list[Stages], found: dict[str, Tensor]) -> dict[str, Any]:
    """What a page needs, smallest divergence first."""
    means = {name: values.mean(1) for name, values in found.items() if name != "full"}
    rows = []
    for place in means["divergence"].argsort().tolist():
        gain, gain_error = paired(-found["divergence"][place], -found["divergence"][0])
        better, better_error = paired(found["right"][place], found["right"][0])
        row = {name: round(float(values[place]), 4) for name, values in means.items()}
        differences = {"gain": gain, "gain_error": gain_error, "better": better, "better_error": better_error}
        rows.append({"stages": stages_text(stages[place]), **row, **{k: round(v, 4) for k, v in differences.items()}})
    return {
        "questions": len(found["full"]),
        "full": round(float(found["full"].mean()), 4),
        "rank_correlation_of_divergence": round(rank_correlation(-means["divergence"], means["right"]), 3),
        "rank_correlation_of_agreement": round(rank_correlation(means["agreement"], means["right"]), 3),
        "stages": rows,
    }


def draw(files: list[Path], into: Path) -> None:
    """A picture of reports: what is right and how far the next token moves, over the depth of the second stage."""
    plt = require_matplotlib()
    figure, axes = plt.subplots(2, len(files), figsize=(4.6 * len(files), 5.6), squeeze=False, layout="constrained")
    for column, file in enumerate(files):
        found = json.loads(file.read_text(encoding="utf-8"))
        rows = [(parse_stages(row["stages"]), row) for row in found["stages"]]
        for axis, name, factor in ((axes[0, column], "right", 100), (axes[1, column], "divergence", 1)):
            for place, share in enumerate(sorted({shape[1][1] for shape, _ in rows if len(shape) == 2})):
                points = sorted((s[1][0], factor * r[name]) for s, r in rows if len(s) == 2 and s[1][1] == share)
                axis.plot(*zip(*points, strict=True), marker="os^Dv"[place], label=f"{100 * share:g} % stay there")
            for shape, row in rows:
                if len(shape) == 1:
                    axis.axhline(factor * row[name], color="#777777", linestyle=":", label="one stage")
            axis.set(xlabel="depth of the second stage", xlim=(0, 1))
        axes[1, column].set_ylim(bottom=0)
        axes[0, column].axhline(100 * found["full"], color="#333333", label="all tokens")
        axes[0, column].set(title=f"{found['model']}, {found['questions']} questions", ylim=(0, 105))
    axes[0, 0].set_ylabel("right, %")
    axes[1, 0].set_ylabel("divergence of the next token, nats")
    axes[0, 0].legend(fontsize="small", frameon=False)
    figure.savefig(into, dpi=130)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="gemma3-270m", help="of framefusion.evaluation.decoders")
    parser.add_argument("--cost", type=float, default=0.3)
    parser.add_argument("--videos", type=int, default=24)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kinds", help="of questions, by commas; those that the model can answer")
    parser.add_argument("--questions", help="places of the questions of each video, by commas; default all")
    parser.add_argument("--stages", action="append", help="beside the default ones; may be repeated")
    parser.add_argument("--json", type=Path, help="write the numbers here")
    parser.add_argument("--draw", type=Path, metavar="PNG", help="measure nothing, draw REPORTS")
    parser.add_argument("reports", type=Path, nargs="*", metavar="REPORTS", help="what --json wrote")
    given = parser.parse_args()
    if given.draw is not None:
        draw(given.reports, given.draw)
        return
    torch.set_num_threads(1)
    kinds = None if given.kinds is None else tuple(given.kinds.split(","))
    places = None if given.questions is None else [int(place) for place in given.questions.split(",")]
    others = CANDIDATES[1:] if given.stages is None else [parse_stages(text) for text in given.stages]
    stages = [STAGES, *others]
    data = Facts(given.videos, given.seed, kinds)
    loaded = open_model({"model": given.model, "dtype": "bfloat16"})
    reachable = [shape for shape in stages if shape[0][0] < given.cost]
    found = report(reachable, measure(loaded, data, questions(data, places), reachable, given.cost))
    text = json.dumps({"model": given.model, "cost": given.cost, "data": data.name, **found}, indent=1)
    if given.json is not None:
        given.json.write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
