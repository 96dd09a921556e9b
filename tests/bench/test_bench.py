"""The baselines select what the library selects, and the report says what was measured."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import contenders, selection
from benchmarks.report import BenchReport
from benchmarks.scaling import SWEEPS, Sweep, fit_exponent, measure_sweep
from framefusion import bench
from framefusion.bench import memory
from framefusion.bench.baselines import original_global_matrix, per_segment_loop
from framefusion.bench.contenders import CONTENDERS, Contender
from framefusion.bench.harness import Measurement, equal_share, measure, pinned_threads
from framefusion.bench.report import environment
from framefusion.bench.workloads import Config, make_case

SMALL = Config(3, 20, 8, 48, batch=2, outside=5)


@pytest.mark.parametrize("contender", ["loop", "torch", "numba"])
@pytest.mark.parametrize("seed", range(4))
def test_contenders_select_what_the_original_selects(contender: str, seed: int) -> None:
    case = make_case(Config(4, 50, 25, 96, batch=2, outside=7), seed=seed)
    expected = CONTENDERS["original"].run(case)
    selected = CONTENDERS[contender].run(case)
    assert len(selected) == 2
    for mine, original in zip(selected, expected, strict=True):
        assert torch.equal(mine, original)


def test_baselines_follow_the_formulas() -> None:
    """By hand: orthogonal tokens are chosen by r², which falls with attention."""
    features = torch.eye(4)[None]
    attention = torch.tensor([[0.1, 0.4, 0.2, 0.3]])
    for baseline in (original_global_matrix, per_segment_loop):
        assert baseline(features, attention, [torch.arange(4)], 9).tolist() == [[0, 2, 3, 1]]
        parts = [torch.tensor([1, 3]), torch.tensor([0, 2])]
        assert baseline(features, attention, parts, 1).tolist() == [[3, 0]]


def recording(calls: list[tuple[str, int]], *names: str) -> dict[str, Contender]:
    """Contenders that only note that they were called, and with how many threads."""

    def make(name: str) -> Contender:
        return Contender(name, "", lambda case: calls.append((name, torch.get_num_threads())) or [])

    return {name: make(name) for name in names}


def test_measure_takes_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[str, int]] = []
    monkeypatch.setattr("framefusion.bench.harness.CONTENDERS", recording(calls, "a", "b"))
    monkeypatch.setattr("framefusion.bench.harness.TURN_MS", 0.0)
    before = torch.get_num_threads()
    rows = measure(SMALL, ["a", "b"], iterations=3, threads=1, memory=False)
    assert calls[:4] == [("a", 1)] * 2 + [("b", 1)] * 2  # warm-up
    rounds = [calls[i : i + 2] for i in range(4, len(calls), 2)]
    assert [sorted(turns) for turns in rounds] == [[("a", 1), ("b", 1)]] * 3
    assert torch.get_num_threads() == before
    assert [(m.contender, m.runs, m.peak_extra_bytes) for m in rows] == [("a", 3, None), ("b", 3, None)]
    assert all(m.fastest_ms <= m.median_ms <= m.slowest_ms for m in rows)


def test_the_order_of_turns_changes_and_is_the_same_in_every_run(monkeypatch: pytest.MonkeyPatch) -> None:
    orders = []
    for _ in range(2):
        calls: list[tuple[str, int]] = []
        monkeypatch.setattr("framefusion.bench.harness.CONTENDERS", recording(calls, *"abc"))
        monkeypatch.setattr("framefusion.bench.harness.TURN_MS", 0.0)
        measure(SMALL, list("abc"), iterations=4, threads=1, memory=False)
        names = [name for name, _ in calls[6:]]
        orders.append([tuple(names[i : i + 3]) for i in range(0, 12, 3)])
    assert orders[0] == orders[1]
    assert len(set(orders[0])) > 1


def test_short_contenders_are_repeated_within_a_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[str, int]] = []
    monkeypatch.setattr("framefusion.bench.harness.CONTENDERS", recording(calls, "a"))
    monkeypatch.setattr("framefusion.bench.harness.MOST_CALLS", 7)
    measure(SMALL, ["a"], iterations=2, threads=1, memory=False)
    assert len(calls) == 2 + 2 * 7


def test_a_bound_stands_for_more_than_it_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    contender = Contender("a", "", lambda case: [], times=lambda config: float("inf"))
    monkeypatch.setattr("framefusion.bench.harness.CONTENDERS", {"a": contender})
    (row,) = measure(SMALL, ["a"], iterations=1, threads=1, memory=False)
    assert row.times_ms == (float("inf"),)


def test_ratios_compare_peers_of_one_round() -> None:
    """A round that is slow for all leaves the ratio alone, though the medians' quotient would move."""
    mine = Measurement(SMALL, "numba", (1.0, 1.0, 4.0, 4.0, 8.0))
    base = Measurement(SMALL, "gram", (2.0, 2.0, 8.0, 2.0, 16.0))
    assert mine.ratios(base) == [0.5, 0.5, 0.5, 2.0, 0.5]
    assert mine.ratio(base) == 0.5


def test_agreement_in_half_precision_is_with_float32_arithmetic_on_the_same_values() -> None:
    config = Config(2, 60, 30, 64, dtype="bfloat16")
    rows = {m.contender: m for m in measure(config, ["loop", "torch", "gram-bf16"], iterations=1, memory=False)}
    assert rows["torch"].equal_share == 1.0
    assert rows["loop"].equal_share is not None
    assert rows["gram-bf16"].equal_share is None


def test_exponents() -> None:
    sizes = [1, 2, 4, 8, 16, 32]
    fit = fit_exponent(sizes, [100.0, 100.0, 100.0, 5 * 8**1.5, 5 * 16**1.5, 5 * 32**1.5])
    assert fit is not None
    assert fit.exponent == pytest.approx(1.5)
    assert (fit.first, fit.last, fit.points) == (8, 32, 3)
    assert fit_exponent([1, 2], [1.0, 2.0]) is None
    with pytest.raises(ValueError, match="equally many, got 3 and 2"):
        fit_exponent([1, 2, 3], [1.0, 2.0])


@pytest.mark.parametrize("name", SWEEPS)
def test_sweeps_vary_one_size_and_ascend(name: str) -> None:
    sweep = SWEEPS[name]
    sizes = [sweep.size(config) for config in sweep.configs]
    assert sizes == sorted(set(sizes))
    assert set(sweep.contenders) <= set(CONTENDERS)
    assert set(sweep.up_to) <= set(sweep.contenders)
    assert {"numba", "gram"} <= set(sweep.present(sweep.configs[-1]))
    assert all(config.keep <= config.tokens for config in sweep.configs)
    assert len(sweep.smaller().configs) == 3


def test_threads_are_restored_after_an_error() -> None:
    before = torch.get_num_threads()
    with pytest.raises(RuntimeError, match="inside"), pinned_threads(before + 1):
        raise RuntimeError("inside")
    assert torch.get_num_threads() == before


def test_equal_share() -> None:
    a, b = torch.tensor([1, 2, 3, 4]), torch.tensor([4, 3, 9, 8])
    assert equal_share([a], [b]) == 0.5
    assert equal_share([a, a], [b, a]) == 0.75
    assert equal_share([], [b]) is None
    assert equal_share([a], None) is None


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux' /proc/self/clear_refs")
def test_peak_memory_sees_the_global_matrix() -> None:
    config = Config(16, 128, 8, 16)
    peaks = memory.peak_extra_bytes(config, ["original", "numba", "gram"], 1, "cpu")
    matrix = (16 * 128) ** 2 * 4
    # similarity and kernel are alive at once; segments need a sixteenth of that each
    assert 2 * matrix * 0.9 <= peaks["original"] <= 5 * matrix
    assert peaks["numba"] <= 0.5 * matrix


def test_memory_child_failure_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(RuntimeError, match="the memory measurement of 2 × 3×20→8, D 48 failed"):
        memory.peak_extra_bytes(SMALL, ["numba"], 1, "cpu")


def test_run_writes_table_and_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "framefusion.bench.harness.peak_extra_bytes", lambda c, names, *_: dict.fromkeys(names, 1 << 20)
    )
    said: list[str] = []
    path = tmp_path / "bench.json"
    report = bench.run([SMALL], iterations=1, threads=1, json_path=path, progress=said.append)
    table = report.table()
    assert "2 × 3×20→8, D 48" in table
    assert table.count("100.00 %") == 4
    assert "threads 1" in table
    data = json.loads(path.read_text(encoding="utf-8"))
    assert data == json.loads(report.to_json())
    names = ["original", "loop", "torch", "numba", "gram", "gram-bf16"]
    assert [row["contender"] for row in data["rows"]] == names
    assert data["rows"][0]["peak_extra_bytes"] == 1 << 20
    assert report.configs() == [SMALL]
    assert any("peak memory" in sentence for sentence in said)


def test_sweeps_are_tables_pictures_and_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib")
    configs = tuple(Config(frames, 12, 6, 32) for frames in (1, 2, 3))
    names = ("original", "loop", "torch", "numba", "gram")
    sweep = Sweep("frames of 12 tokens", "segments", configs, names, up_to={"original": 1}, memory=True)
    monkeypatch.setitem(SWEEPS, "frames", sweep)
    monkeypatch.setattr(
        "framefusion.bench.harness.peak_extra_bytes", lambda c, names, *_: dict.fromkeys(names, 1 << 20)
    )
    rows = measure(SMALL, names, iterations=1, threads=1)
    sweeps = {"frames": measure_sweep(sweep, names, 1, 1)}
    report = BenchReport(rows, environment(1, "cpu"), "cpu", sweeps, {"submodlib": "needs submodlib"})
    table = report.table()
    assert "2 × 3×20→8, D 48" in table
    assert "submodlib LogDeterminant: not installed, needs submodlib" in table
    lines = table.split("frames of 12 tokens")[1].splitlines()
    assert "–" not in lines[2]
    assert "–" in lines[3]
    assert lines[5].startswith("exponent")
    data = json.loads(report.to_json())
    assert len(data["sweeps"]["frames"]) == 13
    again = BenchReport.from_dict(data)
    assert again.configs() == [SMALL]
    assert again.to_dict()["rows"][0]["times_ms"] == data["rows"][0]["times_ms"]
    report.plot(tmp_path / "bench.png")
    report.plot_scaling(tmp_path / "scaling.png")
    assert all((tmp_path / name).read_bytes().startswith(b"\x89PNG") for name in ("bench.png", "scaling.png"))


def test_contenders_that_are_not_installed_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    absent = Contender("submodlib LogDeterminant", "", lambda case: [], missing=lambda: "needs submodlib")
    monkeypatch.setitem(CONTENDERS, "submodlib", absent)
    job = selection.Job(Config(1, 12, 4, 16), ("numba", "submodlib"), 1)
    report = selection.run(selection.Programme((job,), {}, 1), 1, lambda sentence: None)
    assert report.absent == {"submodlib": "needs submodlib"}
    assert "submodlib" not in report.of(Config(1, 12, 4, 16))


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux' /proc/self/clear_refs")
def test_peak_memory_of_contenders_outside_the_package() -> None:
    """Their module is imported where they are measured."""
    assert {CONTENDERS[name].module for name in contenders.OTHERS} == {"benchmarks.contenders"}
    assert memory.peak_extra_bytes(SMALL, ["stream", "gram"], 1, "cpu").keys() == {"stream", "gram"}


def test_missing_matplotlib_is_said_before_anything_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r"pip install 'framefusion\[plot\]'"):
        selection.main(["--out", str(tmp_path)])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"json_path": "no/such/dir/x.json"}, "its directory does not exist"),
        ({"configs": [SMALL], "iterations": 0}, "iterations must be at least 1, got 0"),
        ({"configs": [SMALL], "threads": 0}, "threads must be at least 1, got 0"),
        ({"dtype": "float16"}, "dtype must be one of float32, bfloat16, got 'float16'"),
    ],
)
def test_bad_options(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        bench.run(**options)


def test_bad_config() -> None:
    with pytest.raises(ValueError, match="keep must be at least 1, got 0"):
        Config(1, 2, 0, 4)


def test_unknown_contender() -> None:
    with pytest.raises(ValueError, match="got nobody"):
        measure(SMALL, ["nobody"])
