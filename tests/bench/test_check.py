"""Whether a slow-down is seen, from fabricated measurements: timing decides nothing here."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import check as module
from benchmarks.check import LEAST_TOLERANCE, QUICK, check, compare, differences, slow_downs, tolerance
from benchmarks.report import BenchReport
from framefusion.bench import Config, Measurement

CONFIG = next(iter(QUICK))


def report(numba: float, *, rounds: Sequence[float] = (1.0, 1.0, 1.0), gram: float = 1.0) -> BenchReport:
    """A report whose "numba" takes ``numba`` times the rounds' factors and whose bare Gram matrix takes ``gram``."""
    rows = [
        Measurement(CONFIG, "numba", tuple(numba * each for each in rounds)),
        Measurement(CONFIG, "gram", tuple(gram for _ in rounds)),
        Measurement(CONFIG, "loop", tuple(10 * gram for _ in rounds)),
    ]
    return BenchReport(rows, {"threads": 2}, "cpu")


def test_a_slow_down_is_seen_and_a_speed_up_is_not() -> None:
    slower = {c.base: c for c in compare(report(1.0), report(1.3))}
    assert set(slower) == {"gram", "loop"}
    assert all(c.slower for c in slower.values())
    assert slower["gram"].change == pytest.approx(0.3)
    assert slower["loop"].committed == pytest.approx(0.1)
    assert not any(c.slower for c in compare(report(1.0), report(1.2)))
    assert not any(c.slower for c in compare(report(1.3), report(1.0)))


def test_a_slower_machine_is_no_slow_down() -> None:
    assert [c.change for c in compare(report(1.0), report(7.0, gram=7.0))] == pytest.approx([0.0, 0.0])


def test_noise_of_the_committed_rounds_is_tolerated() -> None:
    noisy = report(1.0, rounds=(0.7, 0.8, 1.0, 1.2, 1.3))
    assert tolerance([0.7, 0.8, 1.0, 1.2, 1.3]) == pytest.approx(3 * 1.4826 * 0.2)
    assert not any(c.slower for c in compare(noisy, report(1.8)))
    assert all(c.slower for c in compare(noisy, report(1.95)))


def test_one_disturbed_round_does_not_widen_the_tolerance() -> None:
    assert tolerance([1.0, 1.0, 1.01, 1.02, 9.0]) == LEAST_TOLERANCE


def test_one_base_alone_that_became_faster_is_no_slow_down() -> None:
    present = report(1.0)
    rows = [replace(m, times_ms=(5.0,) * 3) if m.contender == "loop" else m for m in present.rows]
    found = compare(report(1.0), replace(present, rows=rows))
    assert [(c.base, c.slower) for c in found] == [("gram", False), ("loop", True)]
    assert slow_downs(found) == []
    assert [c.base for c in slow_downs(compare(report(1.0), report(1.3)))] == ["gram", "loop"]


def test_only_what_both_hold_is_compared() -> None:
    other = Config(1, 5, 2, 8)
    present = replace(report(9.0), rows=[replace(row, config=other) for row in report(9.0).rows])
    assert compare(report(1.0), present) == []


def test_a_suspect_is_measured_once_more_before_it_is_believed() -> None:
    asked: list[list[Config]] = []

    def measured(times: list[float]) -> object:
        def measure(configs: Sequence[Config]) -> BenchReport:
            asked.append(list(configs))
            return report(times.pop(0))

        return measure

    found, slower = check(report(1.0), measured([2.0, 1.0]))
    assert asked == [list(QUICK), [CONFIG]]
    assert slower == []
    assert [c.present for c in found] == pytest.approx([1.0, 0.1])
    found, slower = check(report(1.0), measured([2.0, 3.0]))
    assert [c.present for c in slower] == pytest.approx([3.0, 0.3])
    asked.clear()
    assert check(report(1.0), measured([1.1]))[1] == []
    assert asked == [list(QUICK)]


def test_other_machines_are_named() -> None:
    before = {"device": "A", "threads": 2, "torch": "2.14", "numba": "0.68", "python": "3.11"}
    assert differences(before, before | {"python": "3.12"}) == []
    assert differences(before, before | {"device": "B", "torch": "2.15"}) == [
        "device: A when it was measured, B here",
        "torch: 2.14 when it was measured, 2.15 here",
    ]


@pytest.mark.parametrize(("present", "status"), [(1.0, 0), (2.0, 1)])
def test_exit_status(
    present: float, status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "bench.json"
    path.write_text(report(1.0).to_json(), encoding="utf-8")
    monkeypatch.setattr(module, "QUICK", {CONFIG: ("numba", "gram")})
    monkeypatch.setattr(module, "measure", lambda *_, **__: report(present).rows)
    assert module.main(["--json", str(path)]) == status
    printed = capsys.readouterr()
    assert ("slower than committed, twice in a row" in printed.out) is bool(status)
    assert "warning: ratios may differ, torch: None" in printed.err
    assert CONFIG.name in printed.out


def test_nothing_to_compare_with(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert module.main(["--json", str(tmp_path / "gone.json")]) == 2
    assert "gone.json does not exist; write it with make bench" in capsys.readouterr().err
    old = tmp_path / "old.json"
    old.write_text(json.dumps({"rows": [], "sweep": []}), encoding="utf-8")
    assert module.main(["--json", str(old)]) == 2
    assert "is of an older format; write it anew with make bench" in capsys.readouterr().err


def test_the_quick_part_is_a_part_of_the_programme() -> None:
    from benchmarks.selection import programme

    jobs = {job.config: set(job.contenders) for job in programme(5, 100_000, small=False).jobs}
    assert all(set(names) <= jobs[config] for config, names in QUICK.items())
