"""Real processes: one that is killed, one that refuses, and whose end they share."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from framefusion.supervision import DEATHS, Processes, WorkerError, results

posix = pytest.mark.skipif(sys.platform == "win32", reason="sends signals")


@dataclass(frozen=True)
class Echo:
    """Answers with what it was asked and who it is; some jobs end badly.

    Attributes:
        directory: for what only the first process may do.
        number: of the process.
    """

    directory: Path
    number: int
    description = "echo"

    def answer(self, job: str, told: Callable[[int], None]) -> tuple[str, int]:
        told(1)
        dies = job == "die once" and self.first("died")
        if dies:
            (self.directory / "died").write_text(str(self.number))
        if dies or job == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if job == "raise":
            raise ValueError("a defect")
        if job == "sleep":
            (self.directory / f"sleeps-{os.getpid()}").touch()
            time.sleep(600)
        if job == "talk":
            (self.directory / f"talks-{os.getpid()}").touch()
            while True:
                told(1)
                time.sleep(0.02)
        return job, self.number

    def first(self, name: str) -> bool:
        try:
            (self.directory / name).touch(exist_ok=False)
        except FileExistsError:
            return False
        return True


def broken(number: int) -> Echo:
    raise OSError("no such model")


def stillborn(number: int) -> Echo:
    os._exit(7)


def interruptible(number: int) -> Echo:
    """A worker whose description is whether an interrupt could have reached it since it began."""
    blocked = signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, set())
    return Described(Path(), number, f"{blocked} {signal.getsignal(signal.SIGINT) == signal.SIG_IGN}")


@dataclass(frozen=True)
class Described(Echo):
    description: str = ""


def lost(reason: str) -> str:
    return reason


@posix
def test_a_job_whose_process_is_killed_is_done_by_another(tmp_path: Path) -> None:
    told: list[int] = []
    with Processes(partial(Echo, tmp_path)) as pool:
        found = list(results(pool, 2, ["a", "die once", "b", "die", "c"], lost, told=told.append))
    assert not multiprocessing.active_children()
    assert [job for job, _ in found] == ["a", "die once", "b", "die", "c"]
    assert [result[0] for _, result in found if isinstance(result, tuple)] == ["a", "die once", "b", "c"]
    # Either the other one of the first two, or the one in the place of the dead.
    assert found[1][1][1] != int((tmp_path / "died").read_text())
    assert found[3][1] == f"{DEATHS} processes died over it: a process was ended by SIGKILL"
    assert sum(told) == 4


def test_an_answer_that_raises_ends_its_process_alone(tmp_path: Path) -> None:
    with Processes(partial(Echo, tmp_path)) as pool:
        found = dict(results(pool, 1, ["raise", "a"], lost))
    assert found["raise"] == f"{DEATHS} processes died over it: a defect"
    assert found["a"] == ("a", DEATHS + 1)


def test_what_cannot_be_made_is_one_sentence_and_where(tmp_path: Path) -> None:
    with Processes(broken) as pool, pytest.raises(WorkerError, match=r"^no such model$") as caught:
        list(results(pool, 2, ["a"], lost))
    assert "in broken" in str(caught.value.__cause__)
    with Processes(stillborn) as pool, pytest.raises(WorkerError, match=r"3 processes .*: a process ended with code 7"):
        list(results(pool, 1, ["a"], lost))
    assert not multiprocessing.active_children()


@posix
def test_interrupts_reach_no_process_from_its_beginning() -> None:
    told: list[str] = []
    before = signal.pthread_sigmask(signal.SIG_BLOCK, set())
    with Processes(interruptible) as pool:
        list(results(pool, 1, ["a"], lost, confirm=told.append))
    assert told == ["True True"]
    assert signal.pthread_sigmask(signal.SIG_BLOCK, set()) == before


SCRIPT = """
import signal
import sys
from functools import partial
from pathlib import Path
from framefusion.supervision import Processes, results
from tests.supervision.test_processes import Echo, lost

if __name__ == "__main__":
    # As in a terminal: what runs in the background of a script inherits that it ignores interrupts.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with Processes(partial(Echo, Path(sys.argv[1]))) as pool:
        try:
            list(results(pool, 2, [sys.argv[2]] * 2, lost))
        except KeyboardInterrupt:
            print("interrupted", flush=True)
"""


def under_way(directory: Path, job: str) -> tuple[subprocess.Popen[str], list[int]]:
    """A process in a group of its own whose two processes are at their jobs."""
    script = directory / "script.py"
    script.write_text(SCRIPT, encoding="utf-8")
    root = Path(__file__).resolve().parents[2]
    process = subprocess.Popen(
        [sys.executable, str(script), str(directory), job],
        cwd=root,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(root / "src"), str(root)])},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    end = time.monotonic() + 120
    while len(found := [int(path.name.split("-")[1]) for path in directory.glob(f"{job}s-*")]) < 2:
        assert process.poll() is None, process.stderr.read()  # type: ignore[union-attr]
        assert time.monotonic() < end
        time.sleep(0.05)
    return process, found


def end_of(workers: list[int]) -> bool:
    """Whether all of them end within a while."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        if not any(Path(f"/proc/{worker}/cmdline").exists() for worker in workers):
            return True
        time.sleep(0.05)
    return False


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_an_interrupt_ends_all_and_is_told_by_one(tmp_path: Path) -> None:
    """Ctrl-C goes to every process of the terminal."""
    process, workers = under_way(tmp_path, "sleep")
    os.killpg(process.pid, signal.SIGINT)
    try:
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert (process.returncode, out, err) == (0, "interrupted\n", "")
    assert end_of(workers)


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_processes_end_when_the_one_that_started_them_is_killed(tmp_path: Path) -> None:
    process, workers = under_way(tmp_path, "talk")
    process.kill()
    process.communicate(timeout=60)
    assert end_of(workers)
