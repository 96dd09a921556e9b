"""The page of benchmarks, from fabricated measurements: timing decides nothing here."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import selection
from benchmarks.contenders import PEERS
from benchmarks.page import aims, page, prefill_section
from benchmarks.report import BenchReport
from benchmarks.scaling import SWEEPS
from framefusion.bench import CONFIGS, Config, Measurement
from framefusion.bench.contenders import contenders_on

ROOT = Path(__file__).resolve().parents[2]
LONG = Config(1, 100_000, 800, 1024)
COST = {"original": 100.0, "loop": 8.0, "torch": 1.5, "numba": 1.0, "gram": 2.0, "stream": 0.9}


def fabricated(numba: float = 1.0, rounds: int = 3) -> BenchReport:
    """A report in which every contender costs what :data:`COST` says, in a second round twice that."""

    def rows(config: Config, names: tuple[str, ...], size: float = 1.0) -> list[Measurement]:
        cost = {**COST, "numba": numba}
        drift = [2.0 if turn == 1 else 1.0 for turn in range(rounds)]
        return [
            Measurement(config, name, tuple(size * cost.get(name, 3.0) * each for each in drift), 1 << 20, 1.0)
            for name in names
        ]

    fixed = [row for config in CONFIGS for row in rows(config, (*contenders_on("cpu"), "numpy", "lapack"))]
    fixed += [row for config in selection.HALF for row in rows(config, selection.HALF_CONTENDERS)]
    fixed += [row for config in (selection.LONG_QUICK, LONG) for row in rows(config, selection.LONG_CONTENDERS)]
    sweeps = {
        name: [row for c in sweep.configs for row in rows(c, tuple(sweep.present(c)), sweep.size(c) ** 1.5)]
        for name, sweep in SWEEPS.items()
    }
    environment = {"device": "some CPU", "threads": 2, "torch": "2.14", "numba": "0.68"}
    return BenchReport(fixed, environment, "cpu", sweeps, {"openvino": "needs openvino-genai"})


def test_aims_are_shown_beside_what_was_measured() -> None:
    lines = page(fabricated(), None).splitlines()
    small = CONFIGS[0].name
    for expected in (
        f"| {small} | time relative to LAPACK pstrf (SciPy) | ≤ 1× | **0.33×** | 0.33–0.33× | met |",
        f"| {small} | time relative to OpenVINO GenAI FastGreedyDPP | ≤ 1× | not measured |  |  |",
        f"| {small} | speed-up over original (global matrix) | 10–20× | **100.00×** | 100.00–100.00× | met |",
        f"| {LONG.name} | time relative to features read k times | ≤ 1.3× | **1.11×** | 1.11–1.11× | met |",
    ):
        assert expected in lines, expected


@pytest.mark.parametrize(("numba", "met"), [(0.5, 5), (20.0, 0)])
def test_aims_are_met_in_both_directions(numba: float, met: int) -> None:
    report = fabricated(numba)
    measured = [aim for aim in aims(LONG) if aim.base != "openvino"]
    verdicts = [aim.met(report.ratio(aim.config, aim.contender, aim.base)) for aim in measured]
    assert sum(verdicts) == met


def test_exponents_and_their_ranges() -> None:
    text = page(fabricated(), None)
    row = next(line for line in text.splitlines() if line.startswith("| original"))
    line = next(line for line in text.splitlines() if line.startswith("| original (global matrix) | 1.50"))
    assert row != line
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[1:4] == ["1.50 (16–64)", "1.50 (256–1024)", "1.50 (32–128)"]
    assert cells[4:] == ["1.50"] * 3
    assert "- **frames**: frames (segments) of 196 tokens, 98 kept, D 4096; fitted over 32–256" in text


def test_what_is_not_installed_is_named() -> None:
    text = page(fabricated(), None)
    assert "| OpenVINO GenAI FastGreedyDPP | not installed |" in text
    assert "*Not installed here: needs openvino-genai.*" in text


def test_a_page_without_measurements() -> None:
    text = page(BenchReport([]), None)
    assert "No measurements of this version are here yet." in text
    assert text.count("not measured") == len(aims(LONG))
    assert "## Standard workloads" not in text
    assert "## Not compared" in text


def test_prefill_section() -> None:
    data = json.loads((ROOT / "docs" / "data" / "prefill.json").read_text(encoding="utf-8"))
    section = prefill_section(data)
    assert section.startswith("## In a model")
    assert section.count("\n| ") == 2 + sum(len(run["plans"]) for run in data["runs"])
    assert section in page(fabricated(), data)


def test_rendering_again_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "bench-selection.json").write_text(fabricated().to_json(), encoding="utf-8")
    monkeypatch.setattr(selection, "run", lambda *_: pytest.fail("measured"))
    selection.main(["--from-json", "--out", str(tmp_path)])
    first = (tmp_path / "results" / "benchmarks.md").read_text(encoding="utf-8")
    selection.main(["--from-json", "--out", str(tmp_path)])
    assert (tmp_path / "results" / "benchmarks.md").read_text(encoding="utf-8") == first
    assert first == page(fabricated(), None)
    for name in ("bench-selection.png", "bench-scaling.png"):
        assert (tmp_path / "images" / name).read_bytes().startswith(b"\x89PNG")


def test_measuring_writes_data_and_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib")
    asked = []
    monkeypatch.setattr(selection, "run", lambda plan, threads, say: asked.append((plan, threads)) or fabricated())
    selection.main(["--out", str(tmp_path), "--threads", "1", "--long-tokens", "5000", "--rounds", "2"])
    ((plan, threads),) = asked
    assert threads == 1
    assert {config.tokens for config in (job.config for job in plan.jobs) if config.segments == 1} == {5000, 16_384}
    assert {job.rounds for job in plan.jobs} == {2}
    assert selection.load(tmp_path / "data" / "bench-selection.json").configs() == fabricated().configs()
    assert (tmp_path / "results" / "benchmarks.md").exists()


def test_the_programme_measures_what_the_page_shows() -> None:
    plan = selection.programme(5, 100_000, small=False)
    measured = {(job.config, name) for job in plan.jobs for name in job.contenders}
    for aim in aims(LONG):
        assert {(aim.config, aim.contender), (aim.config, aim.base)} <= measured
    assert {name for config, name in measured if config == CONFIGS[0]} == {*contenders_on("cpu"), *PEERS}
    quick = {(job.config, name) for job in selection.only_aims(plan).jobs for name in job.contenders}
    assert quick == {(a.config, name) for a in aims(LONG) for name in (a.contender, a.base) if a.config in CONFIGS}
    small = selection.programme(5, 8192, small=True)
    assert all(job.config.dim <= 256 for job in small.jobs)
    assert small.sweeps.keys() == plan.sweeps.keys()


def test_a_small_programme_runs() -> None:
    tiny = Config(2, 12, 4, 16)
    sweep = SWEEPS["batch"]
    jobs = (selection.Job(tiny, ("torch", "gram", "stream"), 1),)
    report = selection.run(selection.Programme(jobs, {"batch": sweep.smaller(1, 16)}, 1), 1, lambda _: None)
    assert list(report.of(tiny)) == ["torch", "gram", "stream"]
    assert {m.config.dim for m in report.sweeps["batch"]} == {16}
    assert report.environment["threads"] == 1


def test_the_committed_page_is_that_of_the_data() -> None:
    """Else: ``python -m benchmarks.selection --from-json``."""
    docs = ROOT / "docs"
    report = selection.earlier(docs / "data" / "bench-selection.json")
    prefill = json.loads((docs / "data" / "prefill.json").read_text(encoding="utf-8"))
    assert (docs / "results" / "benchmarks.md").read_text(encoding="utf-8") == page(report, prefill)
