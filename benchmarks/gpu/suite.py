"""Tests of the repository as rows of a part."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest

from benchmarks.gpu.record import Record


class _Reporter:
    """Notes how tests end while they run, those of other workers too."""

    def __init__(self, record: Record) -> None:
        self.record, self.counts = record, Counter[str]()
        self.slowest: list[tuple[float, str]] = []

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.when != "call" and report.outcome == "passed":
            return
        self.counts[report.outcome] += 1
        self.slowest = sorted([*self.slowest, (round(report.duration, 2), report.nodeid)])[-10:]
        self.record.data["tests"] = {**self.counts, "slowest": self.slowest[::-1]}
        if report.outcome == "failed":
            self.failed(report)
        elif report.outcome == "skipped":
            self.record.add(test=report.nodeid, outcome="skipped", reason=str(report.longrepr[-1]))
        else:
            self.record.save()

    def pytest_collectreport(self, report: Any) -> None:
        if report.failed:
            self.failed(report)

    def failed(self, report: Any) -> None:
        text = str(report.longrepr)
        # pytest marks the lines of the error itself.
        said = [line.removeprefix("E").strip() for line in text.splitlines() if line.startswith("E ")]
        self.record.fail(report.nodeid, "\n".join(said) or text[-200:], text)


def run(record: Record, arguments: Sequence[str]) -> None:
    """Run pytest: ``tests`` of the record counts outcomes, those that failed are its errors, those skipped its rows."""
    reporter = _Reporter(record)
    # An older pytest does not know all settings of pyproject.toml, and would refuse them.
    options = ["-q", "-p", "no:cacheprovider", "-o", "addopts="]
    code = pytest.main([*options, *arguments], plugins=[reporter])
    if not reporter.counts["passed"]:
        record.fail("pytest", f"no test passed; pytest ended with {code!r}")
