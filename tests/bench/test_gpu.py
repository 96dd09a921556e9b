"""The runner of GPU measurements, and the page of their results: timing decides nothing here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from benchmarks.gpu import __main__ as runner
from benchmarks.gpu import missing, page
from benchmarks.gpu.bench import Bench
from benchmarks.gpu.parts import PARTS, Part
from benchmarks.gpu.record import Absent, Record

ROOT = Path(__file__).resolve().parents[2]


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def in_part(monkeypatch: pytest.MonkeyPatch, folder: Path, run: Any) -> dict[str, Any]:
    """What a part writes whose ``run`` is this."""
    monkeypatch.setattr(runner, "import_module", lambda name: SimpleNamespace(run=run))
    threads = torch.get_num_threads()
    try:
        runner.run_part("kernels", folder, rehearsal=True)
    finally:
        torch.set_num_threads(threads)
    return read(folder / "kernels.json")


def test_parts_fit_into_nine_minutes() -> None:
    assert sum(part.seconds for part in PARTS) <= 540
    assert {part.name for part in PARTS} == set(page.SECTIONS)
    for part in PARTS:
        assert (ROOT / "benchmarks" / "gpu" / f"{part.name}.py").exists()


def test_a_step_that_fails_is_noted_and_the_others_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(record: Record, bench: Bench) -> None:
        for value in (1, 0, 2):
            with record.step(f"step {value}"):
                record.add(value=1 // value)

    data = in_part(monkeypatch, tmp_path, run)
    assert data["status"] == "failed"
    assert data["rows"] == [{"value": 1}, {"value": 0}]
    (error,) = data["errors"]
    assert (error["step"], error["error"]) == ("step 0", "ZeroDivisionError: integer division or modulo by zero")
    assert "record.add(value=1 // value)" in error["traceback"]
    assert {"framefusion", "torch", "transformers", "triton"} <= set(data["versions"])


def test_a_part_that_fails_outside_a_step_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(record: Record, bench: Bench) -> None:
        raise RuntimeError("out of memory")

    data = in_part(monkeypatch, tmp_path, run)
    assert (data["status"], data["errors"][0]["error"]) == ("failed", "RuntimeError: out of memory")


def test_what_is_not_there_is_no_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(record: Record, bench: Bench) -> None:
        raise Absent("vLLM is not installed here")

    data = in_part(monkeypatch, tmp_path, run)
    assert (data["status"], data["reason"], data["errors"]) == ("absent", "vLLM is not installed here", [])


def test_rows_are_there_before_a_part_ends(tmp_path: Path) -> None:
    record = Record(tmp_path / "oracle.json", {"part": "oracle"})
    record.add(family="qwen3_vl")
    assert read(tmp_path / "oracle.json")["status"] == "running"
    assert read(tmp_path / "oracle.json")["rows"] == [{"family": "qwen3_vl"}]
    record.finish()
    assert read(tmp_path / "oracle.json")["status"] == "passed"


def test_a_part_that_takes_too_long_or_crashes_fails_and_leaves_its_file(tmp_path: Path) -> None:
    late = runner.watch_part(Part("engine", 0, "Late"), tmp_path, 0, True, "command")
    crashed = runner.watch_part(Part("nothing", 60, "Not a part"), tmp_path, 60, True, "command")
    for data, said in ((late, "not through after 0 s"), (crashed, "the process ended with exit code 2")):
        assert data["status"] == "failed"
        assert data["errors"][-1]["error"] == said
        assert read(tmp_path / f"{data['part']}.json") == data
        assert runner.line(data).split()[1] == "failed"


def test_a_part_that_was_cut_off_keeps_its_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The runner adds how it ended to what the part wrote itself."""

    class Child:
        pid = 0

        def __init__(self, command: Any, **options: Any) -> None:
            Record(tmp_path / "oracle.json", {"part": "oracle"}).add(family="qwen3_vl")

        def wait(self, timeout: float | None = None) -> int:
            raise subprocess.TimeoutExpired("oracle", timeout or 0)

    monkeypatch.setattr(runner.subprocess, "Popen", Child)
    monkeypatch.setattr(runner, "end_group", lambda child: None)
    data = runner.watch_part(Part("oracle", 9, "Oracle"), tmp_path, 9, False, "command")
    assert (data["status"], data["rows"]) == ("failed", [{"family": "qwen3_vl"}])
    assert data["errors"][0]["error"] == "not through after 9 s"


def test_the_exit_code_counts_failures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    status = iter(["passed", "failed", "absent"])
    limits = []

    def watch(part: Part, folder: Path, seconds: float, rehearsal: bool, command: str) -> dict[str, Any]:
        limits.append(seconds)
        return {"part": part.name, "status": next(status), "seconds": 1.0, "rows": [], "errors": [], "reason": "none"}

    monkeypatch.setattr(runner, "watch_part", watch)
    assert runner.run(tmp_path, [*PARTS[:1], *PARTS[-2:]], 100, False, "command") == 1
    assert limits[0] <= 100
    parts = read(tmp_path / "summary.json")["parts"]
    assert [own["status"] for own in parts.values()] == ["passed", "failed", "absent"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_the_command_says_so(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.gpu", str(tmp_path / "out")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "needs a CUDA device, and torch sees none; --rehearse runs without" in done.stderr


def test_only_wheels_of_what_is_missing_are_installed(tmp_path: Path) -> None:
    for name in ("torch-9.0-py3-none-any.whl", "nothing_like_it-1.0-py3-none-any.whl"):
        (tmp_path / name).touch()
    assert [path.name for path in missing.missing(tmp_path)] == ["nothing_like_it-1.0-py3-none-any.whl"]
    assert missing.missing(tmp_path / "not there") == []


def test_the_contract_refuses_an_interpreter_on_a_device() -> None:
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "tests/selection", "--device", "cuda"]
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert "set TRITON_INTERPRET=0" in done.stderr


def test_the_page_is_that_of_its_data() -> None:
    """Else: ``python -m benchmarks.gpu.page``."""
    docs = ROOT / "docs"
    assert (docs / "results" / "gpu.md").read_text(encoding="utf-8") == page.page(page.results(docs / "data", "gpu-"))


def test_without_data_the_page_says_so() -> None:
    assert "**No GPU has run this yet.**" in page.page([])


def fabricated() -> list[dict[str, Any]]:
    """Results of every part, as it would write them."""
    times = {"median": 2.5, "repeats": 10, "milliseconds": [2.5] * 10}
    video = {"frames": 64, "visual_tokens": 6272, "dtype": "bfloat16"}
    rows: dict[str, list[dict[str, Any]]] = {
        "contract": [],
        "oracle": [
            {"family": "qwen3_vl", "attention": "sdpa", "dtype": "float32", "passed": True, "largest_difference": 3e-5},
            {"family": "qwen3_vl", "attention": "sdpa", "dtype": "bfloat16", "passed": False, "largest_difference": 0.2}
            | {"rms": 0.3, "rms_of_oracle": 0.2},
        ],
        "prefill": [
            {"measure": "tower", "plan": "all tokens", **video, **times},
            {"measure": "prefill", "plan": "all tokens", **video, **times, "speed_up": 1.0},
            {"measure": "prefill", "plan": "keep=0.2", **video, **times, "median": 1.25, "speed_up": 2.0}
            | {"mean_share": 0.25, "stages_share_of_full": 0.01},
            {"measure": "ideal", "plan": "keep=0.2", **video, "median": 1.0, "repeats": 5},
            {"measure": "memory", "plan": "keep=0.2", **video, "extra_bytes": 3 << 20},
        ],
        "kernels": [
            {"table": "Gram matrices", "dtype": "float32", "name": "triangle kernel", **times, "of_ours": 1.0}
            | {"launches": 1, "extra_bytes": 0, "largest_error": 1e-6, "batch_equals_single": True}
        ],
        "decoding": [
            {"plan": "keep=0.2", "way": "eager", **times, "warm_up_seconds": 1.0, "same_tokens": "36 of 36"},
        ],
        "tower": [{"frames": 64, "changed": 0.3, "tower": "everything", "encoded": 1.0, **times, "speed_up": 1.0}],
        "engine": [],
    }
    facts = {"status": "passed", "seconds": 20.0, "errors": [], "device": {"name": "some GPU", "gigabytes": 80.0}}
    found = [
        {"part": part.name, "title": part.title, **facts, "versions": {"torch": "2.11"}, "rows": rows[part.name]}
        for part in PARTS
    ]
    found[0]["tests"] = {"passed": 500, "skipped": 2, "slowest": []}
    found[1].update(status="failed", errors=[{"step": "qwen3_vl", "error": "two\nlines", "traceback": ""}])
    found[-1].update(status="absent", reason="vLLM is not installed here")
    return found


def test_every_part_has_its_section() -> None:
    text = page.page(fabricated())
    for line in (
        "some GPU 80.0 GB; torch 2.11; ``.",
        "| `oracle` | Whole models against the masked oracle | **failed**, 1 error | 20 s |",
        "| `engine` | vLLM | not there: vLLM is not installed here | 20 s |",
        "Tests: 500 passed, 2 skipped.",
        "| qwen3_vl | sdpa | bfloat16 | 1 | 0 | 2e-01 | 1.50 |",
        "- `qwen3_vl`: two",
        "**64 frames, 6272 visual tokens.** The tower takes 2.50 ms.",
        "| keep=0.2 | 25.0% | 1.25 ms | 10 | 2.00× | 1.00 ms | 80% | 1.00% |  |  | 3 MiB |",
        "**Gram matrices, float32** (largest error: 1e-06, batch equals single: yes)",
        "| keep=0.2 | eager | 2.50 ms | 10 | 1.0 s | 36 of 36 |",
        "| 64 | 30% | everything | 100.0% | 2.50 ms | 10 | 1.00× |",
    ):
        assert line in text.splitlines(), line
    assert "No GPU" not in text
    assert "## vLLM" not in text


def test_results_are_taken_into_the_docs(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "run").mkdir()
    with pytest.raises(ValueError, match="has no results of a run"):
        page.take(tmp_path / "run", tmp_path)
    found = fabricated()
    for data in found:
        (tmp_path / "run" / f"{data['part']}.json").write_text(json.dumps(data), encoding="utf-8")
    page.take(tmp_path / "run", tmp_path)
    assert page.results(tmp_path / "data", "gpu-") == found
    (tmp_path / "run" / "tower.json").write_text(json.dumps({**found[5], "rehearsal": True}), encoding="utf-8")
    with pytest.raises(ValueError, match="results of a rehearsal, whose numbers mean nothing"):
        page.take(tmp_path / "run", tmp_path)
