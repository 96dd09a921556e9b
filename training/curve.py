"""Write the learning curve of a run beside this file: ``python training/curve.py --run qwen``."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import matplotlib as mpl
from runs import HERE, RUNS

mpl.use("Agg")
import matplotlib.pyplot as plt

DECODER = {
    "right": "answers right",
    "parse": "words of the question, where the answer begins",
    "lookup": "attention paid to the evidence",
    "scene_kind_3": "large thing of the scene",
    "previous_kind_4": "large thing of the scene before",
    "ordinal_4": "number of the scene",
    "direction_4": "direction of the large thing",
    "first_4": "first token of a thing",
}
VISION = {"color": "colour under the token", "kind": "kind under the token", "large": "whether it is a large thing"}


def read(log: Path) -> list[dict[str, float]]:
    """The points of a log; after a restart from an earlier step, the later ones count."""
    points = {point["step"]: point for point in map(json.loads, log.read_text().splitlines())}
    return [points[step] for step in sorted(points)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", default="llava")
    args = parser.parse_args()
    curves = {phase: read(RUNS / args.run / f"{phase}.jsonl") for phase in ("vision", "decoder")}
    lines = ",\n".join(
        f'"{phase}": [\n' + ",\n".join(json.dumps(point) for point in points) + "\n]"
        for phase, points in curves.items()
    )
    (HERE / f"curve-{args.run}.json").write_text(f"{{\n{lines}\n}}\n")
    figure, panels = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained", width_ratios=(1, 1.6))
    titles = ("the vision side, on crowded frames", "the decoder, behind random subsets of tokens")
    for axes, points, names, title in zip(panels, curves.values(), (VISION, DECODER), titles, strict=True):
        for name, label in names.items():
            style = {"color": "black", "linewidth": 2.2} if name == "right" else {"linewidth": 1.2}
            axes.plot(
                [p["step"] for p in points], [100 * p.get(name, float("nan")) for p in points], label=label, **style
            )
        axes.set(xlabel="step", ylim=(0, 101), title=title)
        axes.legend(fontsize=8, loc="lower right")
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("training batches: read right, %")
    figure.savefig(HERE / f"curve-{args.run}.png", dpi=110)


if __name__ == "__main__":
    main()
