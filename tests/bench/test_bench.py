"""The baselines select what the library selects, and the report says what was measured."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

from framefusion import bench
from framefusion.bench import memory
from framefusion.bench.baselines import original_global_matrix, per_segment_loop
from framefusion.bench.contenders import CONTENDERS, Config, make_case
from framefusion.bench.harness import equal_share, measure, pinned_threads

SMALL = Config(3, 20, 8, 48, batch=2, outside=5)


@pytest.mark.parametrize("contender", ["loop", "torch", "numba"])
@pytest.mark.parametrize("seed", range(4))
def test_contenders_select_what_the_original_selects(contender: str, seed: int) -> None:
    case = make_case(Config(4, 50, 25, 96, batch=2, outside=7), seed=seed)
    expected = CONTENDERS["original"](case)
    selected = CONTENDERS[contender](case)
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


def test_measure_takes_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def contender(name: str) -> object:
        return lambda case: calls.append((name, torch.get_num_threads())) or []

    monkeypatch.setattr("framefusion.bench.harness.CONTENDERS", {n: contender(n) for n in ("a", "b")})
    before = torch.get_num_threads()
    rows = measure(SMALL, ["a", "b"], iterations=3, threads=1, memory=False)
    assert calls == [("a", 1), ("b", 1)] * 4  # the first pair warms up
    assert torch.get_num_threads() == before
    assert [(m.contender, m.runs, m.peak_extra_bytes) for m in rows] == [("a", 3, None), ("b", 3, None)]
    assert all(m.fastest_ms <= m.median_ms <= m.slowest_ms for m in rows)


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


def test_run_writes_table_json_and_plot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(bench, "SWEEP_FRAMES", (1, 2))
    monkeypatch.setattr(bench, "ORIGINAL_UP_TO", 1)
    monkeypatch.setattr(
        "framefusion.bench.harness.peak_extra_bytes", lambda c, names, *_: dict.fromkeys(names, 1 << 20)
    )
    said: list[str] = []
    report = bench.run(
        [SMALL],
        iterations=1,
        threads=1,
        json_path=tmp_path / "bench.json",
        plot_path=tmp_path / "bench.png",
        progress=said.append,
    )
    table = report.table()
    assert "2 × 3×20→8, D 48" in table
    assert table.count("100.00 %") == 4
    assert "threads 1" in table
    sweep = table.split("Frames of 196 tokens")[1].splitlines()
    assert "–" in sweep[3]
    assert "–" not in sweep[2]
    data = json.loads((tmp_path / "bench.json").read_text(encoding="utf-8"))
    assert data == json.loads(report.to_json())
    assert [row["contender"] for row in data["rows"]] == ["original", "loop", "torch", "numba", "gram"]
    assert data["rows"][0]["peak_extra_bytes"] == 1 << 20
    assert len(data["sweep"]) == 9
    assert (tmp_path / "bench.png").read_bytes().startswith(b"\x89PNG")
    assert any("peak memory" in sentence for sentence in said)


def test_missing_matplotlib_is_said_before_anything_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r"pip install 'framefusion\[plot\]'"):
        bench.run(plot_path="bench.png")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"plot_path": "x.png", "sweep": False}, "plot_path needs sweep=True"),
        ({"json_path": "no/such/dir/x.json"}, "its directory does not exist"),
        ({"configs": [SMALL], "iterations": 0}, "iterations must be at least 1, got 0"),
        ({"configs": [SMALL], "threads": 0}, "threads must be at least 1, got 0"),
    ],
)
def test_bad_options(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        bench.run(**options)


def test_bad_config() -> None:
    with pytest.raises(ValueError, match="keep must be at least 1, got 0"):
        Config(1, 2, 0, 4)
