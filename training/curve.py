"""The committed learning curve: a JSON file and a picture."""

from __future__ import annotations

import json
from pathlib import Path

from questions import QUESTION_KINDS


def write_curve(log: Path, json_file: Path, picture: Path, results: dict[str, dict[str, float]]) -> None:
    """Write a run's log (JSON lines) as one JSON file with the final ``results``, and plot it."""
    points = [json.loads(line) for line in log.read_text().splitlines()]
    lines = ",\n".join(json.dumps(point) for point in points)
    json_file.write_text(f'{{"held_out": {json.dumps(results, indent=1)},\n"points": [\n{lines}\n]}}\n')
    _plot(points, picture)


def _plot(points: list[dict], picture: Path) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, (above, below) = plt.subplots(2, 1, figsize=(8, 7), sharex=True, layout="constrained")
    measured = [point for point in points if "held_out" in point]
    for kind in ("all", *QUESTION_KINDS):
        values = [100 * point["held_out"].get(kind, float("nan")) for point in measured]
        style = {"color": "black", "linewidth": 2.2} if kind == "all" else {"linewidth": 1.2}
        above.plot([point["minutes"] for point in measured], values, label=kind, **style)
    above.set(ylabel="held-out answers right, %", ylim=(0, 100))
    above.legend(ncols=3, fontsize=8)
    for name, label in (
        ("kind_0", "object under the token (vision side)"),
        ("scene_kind_1", "object of the scene (after layer 1)"),
        ("previous_kind_2", "object of the previous scene (after layer 2)"),
        ("ordinal_2", "number of the scene (after layer 2)"),
    ):
        seen = [point for point in points if name in point["readouts"]]
        shares = [100 * point["readouts"][name] for point in seen]
        below.plot([point["minutes"] for point in seen], shares, label=label, linewidth=1.2)
    below.set(xlabel="minutes of training on two cores", ylabel="training readouts right, %", ylim=(0, 100))
    below.legend(fontsize=8)
    for axes in (above, below):
        axes.grid(alpha=0.3)
    figure.savefig(picture, dpi=110)
    plt.close(figure)
