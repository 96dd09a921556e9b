"""The page of benchmarks, rendered from measurements alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from benchmarks.contenders import PEERS
from benchmarks.markdown import milliseconds, table
from benchmarks.report import BenchReport, axis_label
from framefusion.bench import CONFIGS, Config
from framefusion.bench.contenders import CONTENDERS, label
from framefusion.bench.report import mebibytes, percent, times

OURS = "numba"
"""The contender that the aims are about: what ``backend="auto"`` takes on a CPU."""

GRAM_EXPONENTS = {"frames": "1", "tokens": "2", "keep": "0", "dim": "1", "batch": "1", "segments": "−1"}
"""How the products of the Gram matrices grow in each sweep."""


@dataclass(frozen=True)
class Aim:
    """What a measured ratio should be.

    Attributes:
        config: the workload.
        contender: whose time.
        base: relative to whose.
        bound: of the ratio of the two times, or of its inverse.
        faster: whether the inverse, how many times faster, should be at least ``bound``; else the ratio at most.
        up_to: end of the range that is aimed at, where it is one; more is met too.
    """

    config: Config
    contender: str
    base: str
    bound: float
    faster: bool = False
    up_to: float | None = None

    def value(self, ratio: float) -> float:
        """A ratio of times as this aim states it."""
        return 1 / ratio if self.faster else ratio

    def met(self, ratio: float) -> bool:
        """Whether a ratio of times fulfils it."""
        return self.value(ratio) >= self.bound if self.faster else ratio <= self.bound

    def what(self) -> str:
        """The compared times in words."""
        return f"{'speed-up over' if self.faster else 'time relative to'} {label(self.base)}"

    def target(self) -> str:
        """The aim in words."""
        if self.faster:
            return f"{self.bound:g}–{self.up_to:g}×" if self.up_to else f"≥ {self.bound:g}×"
        return f"≤ {self.bound:g}×"


def aims(long: Config) -> list[Aim]:
    """All aims; the long segment is the one that was measured."""
    return [
        *(Aim(config, OURS, "lapack", 1) for config in CONFIGS),
        *(Aim(config, OURS, "openvino", 1) for config in CONFIGS),
        Aim(CONFIGS[0], OURS, "original", 10, faster=True, up_to=20),
        Aim(long, OURS, "stream", 1.3),
    ]


def page(report: BenchReport, prefill: dict[str, Any] | None) -> str:
    """The page as Markdown.

    Args:
        report: the measurements; without rows the page says that there are none.
        prefill: the data of ``benchmarks/prefill.py``; None leaves that section out.
    """
    parts = [_HEAD, _environment(report), "## Aims", aims_table(report)]
    if report.rows:
        parts += [_workloads_section(report), _long_section(report)]
    if report.sweeps:
        parts.append(_scaling_section(report))
    if prefill is not None:
        parts.append(prefill_section(prefill))
    parts += [_contenders_section(report), _NOT_COMPARED, _HOW]
    return "\n\n".join(part for part in parts if part) + "\n"


_HEAD = """# Benchmarks

How fast the selection is beside the published ways, beside what other packages offer, and beside the arithmetic that
it cannot do without. `make bench` measures everything and writes this page; `make bench-check` compares the machine it
runs on with the ratios here. Read ratios, not milliseconds. Only CPUs were measured.

## How it is measured

All contenders of a workload run in one process on the same tensors, with threads pinned (torch's, and those of the
BLAS behind NumPy and SciPy). After a warm-up they take turns: each round gives every contender one turn, in an order
that changes from round to round. A turn repeats a short contender until it has lasted 20 ms and counts the mean. **A
ratio is the median, over rounds, of two times of the same round**, so that whatever slows the machine for a while
slows both; the range behind it is that of the rounds. Medians and fastest rounds of the times stand beside it, and
every round's time is in [data/bench-selection.json](../data/bench-selection.json). Peak extra memory is the growth of
the resident set's high-water mark over one run in a child process (`/proc/self/clear_refs`, `VmHWM`): every allocation,
whoever made it, and nothing of the inputs. Equal tokens: the share of the original's tokens that are selected too
(bfloat16 features: of the per-segment loop's in float32 on the same values).

Tokens are random with a direction in common per segment, attention is random too, evenly distributed; relevance is the
published min–max of the negative attention."""


def _environment(report: BenchReport) -> str:
    if not report.environment:
        return "No measurements of this version are here yet."
    return "Measured with " + ", ".join(f"{name} {value}" for name, value in report.environment.items()) + "."


def aims_table(report: BenchReport) -> str:
    """What was aimed at and measured."""
    long = max(_long_configs(report), key=lambda config: config.tokens, default=Config(1, 100_000, 800, 1024))
    rows = [_aim_row(report, aim) for aim in aims(long)]
    head = ["workload", "`select_tokens` on the CPU", "aim", "measured", "range of the rounds", ""]
    return table(head, rows)


def _aim_row(report: BenchReport, aim: Aim) -> list[str]:
    measured = report.of(aim.config)
    cells = [aim.config.name, aim.what(), aim.target()]
    if aim.contender not in measured or aim.base not in measured:
        return [*cells, "not measured", "", ""]
    ratio = measured[aim.contender].ratio(measured[aim.base])
    values = sorted(aim.value(each) for each in measured[aim.contender].ratios(measured[aim.base]))
    spread = f"{values[0]:.2f}–{values[-1]:.2f}×"
    return [*cells, f"**{times(aim.value(ratio))}**", spread, "met" if aim.met(ratio) else "missed"]


def _workloads_section(report: BenchReport) -> str:
    long = _long_configs(report)
    blocks = [_workload_table(report, config) for config in report.configs() if config not in long]
    text = (
        "## Standard workloads\n\n"
        "Segments × tokens → kept of each, width D of the features. Times are related, round by round, to those of "
        "`select_tokens` on the CPU (ours) and of the bare float32 Gram matrices."
    )
    return "\n\n".join([text, *blocks])


def _workload_table(report: BenchReport, config: Config) -> str:
    measured = report.of(config)
    head = [config.name, "median", "fastest", "vs ours", "vs fp32 Gram", "peak extra", "equal tokens"]
    rows = [
        [
            label(name),
            milliseconds(m.median_ms),
            milliseconds(m.fastest_ms),
            times(report.ratio(config, name, OURS)),
            times(report.ratio(config, name, "gram")),
            mebibytes(m.peak_extra_bytes),
            percent(m.equal_share),
        ]
        for name, m in measured.items()
    ]
    if any(name in measured for name in PEERS) or config in CONFIGS:
        rows += [[label(name), "not installed", *[""] * 5] for name in report.absent]
    return table(head, rows)


def _long_configs(report: BenchReport) -> list[Config]:
    return [config for config in report.configs() if "stream" in report.of(config)]


def _long_section(report: BenchReport) -> str:
    rows = []
    for config in _long_configs(report):
        for name, m in report.of(config).items():
            bound = times(report.ratio(config, name, "stream"))
            rows.append([config.name, label(name), milliseconds(m.median_ms), bound, mebibytes(m.peak_extra_bytes)])
    if not rows:
        return ""
    head = ["workload", "", "median", "vs the bound", "peak extra"]
    text = (
        "## Long segments\n\n"
        "Above 4,096 tokens the selection is pivoted Gram–Schmidt, which reads the features once per kept token. The "
        "bound is that reading alone: k times one product of the features with a vector (`torch.mv`)."
    )
    return text + "\n\n" + table(head, rows)


def _scaling_section(report: BenchReport) -> str:
    names = list(dict.fromkeys(m.contender for rows in report.sweeps.values() for m in rows))
    ranges = {sweep: _largest_range(report, sweep) for sweep in report.sweeps}
    head = ["time ∝ size^…", *report.sweeps]
    rows = [
        [label(name), *(_exponent(report, sweep, name, ranges[sweep]) for sweep in report.sweeps)] for name in names
    ]
    rows.append(["*products of the Gram matrices*", *(GRAM_EXPONENTS.get(sweep, "") for sweep in report.sweeps)])
    sizes = "\n".join(f"- **{sweep}**: {axis_label(sweep, report)}; fitted over {ranges[sweep]}" for sweep in ranges)
    return (
        "## Scaling\n\n"
        "Exponents of the fastest rounds: least squares through the logarithms, over the larger half of the sizes; "
        "another range in parentheses, where a contender was not taken to the largest size. Fixed costs lower an "
        "exponent, caches that overflow raise it.\n\n"
        f"{table(head, rows)}\n\n{sizes}\n\n"
        "![Median time over each size](../images/bench-scaling.png)\n\n"
        "Over the number of frames, with memory:\n\n"
        "![Time and peak extra memory over the number of frames](../images/bench-selection.png)"
    )


def _largest_range(report: BenchReport, sweep: str) -> str:
    fits = [fit for fit in report.fits(sweep).values() if fit is not None]
    if not fits:
        return "nothing, there are too few sizes"
    fit = max(fits, key=lambda fit: fit.last)
    return f"{fit.first}–{fit.last}"


def _exponent(report: BenchReport, sweep: str, name: str, usual: str) -> str:
    fit = report.fits(sweep).get(name)
    if fit is None:
        return "–"
    covered = f"{fit.first}–{fit.last}"
    value = f"{fit.exponent:.2f}".replace("-", "−")
    return value if covered == usual else f"{value} ({covered})"


def prefill_section(data: dict[str, Any]) -> str:
    """A decoder's prefill with and without reduction, from the data of ``benchmarks/prefill.py``."""
    rows = [
        [
            f"{run['frames']} ({run['visual_tokens']:,})",
            plan["plan"],
            f"{plan['mean_share']:.1%}",
            f"{plan['median_seconds']:.2f} s",
            f"{plan['stages_share_of_full']:.2%}",
            times(plan["speed_up"]),
            times(plan["ideal_speed_up"]),
            _share(plan["speed_up"], plan["ideal_speed_up"]),
            _mebibytes(plan.get("peak_extra_bytes")),
            _mebibytes(plan.get("ideal_peak_extra_bytes")),
            _share(plan.get("ideal_peak_extra_bytes"), plan.get("peak_extra_bytes")),
        ]
        for run in data["runs"]
        for plan in run["plans"]
    ]
    head = [
        "frames (visual tokens)",
        "plan",
        "mean share",
        "prefill",
        "stages",
        "speed-up",
        "ideal by FLOPs",
        "reached",
        "peak extra memory",
        "ideal",
        "ideal / peak",
    ]
    text = (
        "## In a model\n\n"
        f"A decoder's prefill, Qwen2.5-VL's architecture with random weights, "
        f"{data['decoder_parameters'] / 1e6:.0f} million decoder parameters in {data['layers']} layers, "
        f"{data['machine']}, video encoded beforehand (`{data['command']}`). Stages: time of the reduction relative to "
        "the full prefill, which the `cost` plans spend in three stages and `keep` in one. Speed-ups are medians of "
        "ratios of the same round. The ideal memory takes what all tokens need beyond their cache, and beyond what the "
        "model's own code holds from before the first layer to the end (embeddings, encoded video, rotary tables), as "
        "proportional to the tokens of a layer, and adds these and the cache of the layers so far. Aimed at: stages of "
        "at most 1 % at 64 frames for up to two stages, and 85 % of both ideals."
    )
    apart = [
        f"\n\n“{plan['plan']}” was measured by itself{_machine(plan)}, with rounds of all tokens of its own "
        f"(`{plan['command']}`)."
        for run in data["runs"]
        for plan in run["plans"]
        if "command" in plan
    ]
    return text + "\n\n" + table(head, rows) + "".join(apart)


def _machine(plan: dict[str, Any]) -> str:
    return f", on {plan['machine']}" if "machine" in plan else ""


def _share(part: float | None, whole: float | None) -> str:
    return "" if part is None or whole is None else f"{part / whole:.0%}"


def _mebibytes(count: float | None) -> str:
    return "" if count is None else f"{count / 2**20:,.0f} MiB"


def _contenders_section(report: BenchReport) -> str:
    lines = []
    for name, contender in CONTENDERS.items():
        absent = f" *Not installed here: {report.absent[name]}.*" if name in report.absent else ""
        lines.append(f"- **{contender.label}** (`{name}`): {contender.note}{absent}")
    return (
        "## The contenders\n\n"
        "The packages that take a ready kernel get it from `torch.bmm`, scaled in place: that is in their times, so "
        "they differ from the bare Gram matrix by the scaling and their greedy. `tests/bench/test_peers.py` holds each "
        "to the sets that this library selects.\n\n" + "\n".join(lines)
    )


_NOT_COMPARED = """## Not compared

- **OpenVINO GenAI's whole CDPruner.** Its wheel's Python interface has the pruning only inside a vision-language
  pipeline with a converted model, and its kernel builder takes text embeddings for the relevance. What is compared is
  its greedy DPP: the shared library exports the C++ class, and `ctypes` calls it without compiling anything
  (`benchmarks/openvino_dpp.py`). No public interface promises that, so exactly one release is called. The
  library runs the kernels of a call one after another on one thread, and that is how it is timed.
- **apricot-select 0.6.1** installs and runs, but has no log-determinant or DPP among its functions (facility location,
  graph cut, feature based, coverage, redundancy, mixtures): other objectives, other sets.
- **DPPy 0.3.3 and pydpp 0.2.1** draw random samples from a DPP; neither has greedy MAP.
- **triton-submodular 0.1.0a1** has facility location, graph cut, feature based and coverage, for GPUs.
- **GPUs**: [a page of their own](gpu.md)."""

_HOW = """## Run it

    make bench                                    # everything, less than 15 minutes on 2 cores; writes this page
    make bench-check                              # a quick part of it against the ratios here, less than 2 minutes
    python -m benchmarks.selection --from-json    # this page and its pictures from the data
    framefusion bench --dtype bfloat16            # the standard workloads without the peers, printed

`make bench-check` compares only ratios, never milliseconds. A ratio is beyond noise where it is above the one here by
more than 25 % or three standard deviations of the rounds here (1.4826 times their median absolute deviation each),
whichever is more. A backend has become slower on a workload where that holds for most of its ratios, in two
measurements in a row. The command says when the CPU, the threads or the versions are others, because ratios may differ
then."""
