"""The file of results: torn, locked, full, of another run."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest

from framefusion.batch.rows import BatchError, Row
from framefusion.batch.store import Finished, Results
from tests.batch.fake import results

IDENTITY = {"settings": {"keep": 0.2, "cost": None}, "model": "a"}
ROWS = [Row(line, f"{line:012x}", f"q{line}") for line in (1, 2, 3)]


def fill(path: Path, rows=ROWS) -> None:
    with Results(path) as store:
        store.describe(IDENTITY, {"command": "test"})
        for row in rows:
            store.add(row, {"answer": "谁"})


def test_what_is_written_is_found_again(tmp_path):
    path = tmp_path / "out.jsonl"
    fill(path)
    expected = [{"line": i, "id": f"q{i}", "fingerprint": f"{i:012x}", "answer": "谁"} for i in (1, 2, 3)]
    assert results(path) == expected
    manifest = json.loads((tmp_path / "out.jsonl.run.json").read_text())
    assert manifest == {"schema": 1, **IDENTITY, "command": "test"}
    with Results(path) as store:
        finished = store.finished()
    assert (finished.count, finished.last) == (3, 3)
    assert [line in finished for line in range(5)] == [False, True, True, True, False]
    assert finished.agrees(2, f"{2:012x}")
    assert not finished.agrees(2, f"{3:012x}")


@pytest.mark.parametrize("length", range(0, 190, 7))
def test_a_file_that_was_torn_anywhere_is_repaired(length, tmp_path):
    """Cut at any byte, whole rows stay and the torn one is gone, also from the file."""
    path = tmp_path / "out.jsonl"
    fill(path)
    whole = path.read_bytes()
    path.write_bytes(whole[:length])
    kept = whole[:length].count(b"\n")
    with Results(path) as store:
        store.describe(IDENTITY, {})
        assert store.finished().count == kept
        for row in ROWS[kept:]:
            store.add(row, {"answer": "谁"})
    assert path.read_bytes() == whole


def test_a_long_torn_row_is_cut_off(tmp_path):
    """Longer than the block in which the cut is looked for; and a power failure may leave zeros."""
    path = tmp_path / "out.jsonl"
    fill(path)
    whole = path.read_bytes()
    path.write_bytes(whole + b"\0" * 200_000)
    with Results(path) as store:
        assert store.finished().count == 3
    assert path.read_bytes() == whole


def test_a_damaged_line_is_named(tmp_path):
    path = tmp_path / "out.jsonl"
    for bad in (b"nonsense", b"{}", b'{"line": 0, "fingerprint": "000000000001"}', b'{"line": 1, "fingerprint": "x"}'):
        fill(path)
        path.write_bytes(path.read_bytes() + bad + b"\n")
        with Results(path) as store, pytest.raises(BatchError, match="line 4"):
            store.finished()
        path.unlink()


def test_another_run_is_refused_by_what_differs(tmp_path):
    path = tmp_path / "out.jsonl"
    fill(path)
    with Results(path) as store:
        store.check(IDENTITY)
        with pytest.raises(BatchError, match=r"differ in settings \(keep 0.2, now 0.1\); choose another file"):
            store.check({**IDENTITY, "settings": {"keep": 0.1, "cost": None}})
        with pytest.raises(BatchError, match=r"differ in model \(a, now b\)"):
            store.describe({**IDENTITY, "model": "b"}, {})
    assert json.loads((tmp_path / "out.jsonl.run.json").read_text())["model"] == "a"


def test_a_run_without_results_may_be_another_one(tmp_path):
    path = tmp_path / "out.jsonl"
    fill(path, [])
    with Results(path) as store:
        store.describe({**IDENTITY, "model": "b"}, {})


def test_files_that_are_no_results(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("mine")
    with pytest.raises(BatchError, match=r"is there already and has no notes.txt.run.json"):
        Results(path)
    assert path.read_text() == "mine"
    with pytest.raises(BatchError, match="it is no file"):
        Results(Path(os.devnull))
    with pytest.raises(BatchError, match=r"cannot write .*: No such file or directory"):
        Results(tmp_path / "none" / "out.jsonl")
    fill(tmp_path / "out.jsonl")
    for text, words in (("{", "is damaged"), ('{"schema": 2}', "of another version")):
        (tmp_path / "out.jsonl.run.json").write_text(text)
        with pytest.raises(BatchError, match=words):
            Results(tmp_path / "out.jsonl")


def test_two_processes_do_not_write_one_file(tmp_path):
    path = tmp_path / "out.jsonl"
    with Results(path), pytest.raises(BatchError, match="another process is writing"):
        Results(path)
    with Results(path):
        pass


def write_all(store: Results) -> None:
    for row in ROWS:
        store.add(row, {"answer": "谁"})


class Disk:
    """A file on a disk with so many bytes left."""

    def __init__(self, file, free: int) -> None:
        self.file, self.free = file, free

    def __getattr__(self, name):
        return getattr(self.file, name)

    def write(self, data) -> int:
        if not self.free:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written = self.file.write(bytes(data[: self.free]))
        self.free -= written
        return written


@pytest.mark.parametrize("free", range(0, 150, 10))
def test_a_full_disk_leaves_whole_rows(free, tmp_path):
    path = tmp_path / "out.jsonl"
    fill(path)
    whole = path.read_bytes()
    path.unlink()
    sentence = (
        f"cannot write {path}: No space left on device; what is there stays, and the same command goes on with it"
    )
    with Results(path) as store:
        store.describe(IDENTITY, {"command": "test"})
        store._file = Disk(store._file, free)
        with pytest.raises(BatchError) as caught:
            write_all(store)
    assert str(caught.value) == sentence
    left = path.read_bytes()
    assert whole.startswith(left)
    assert left.count(b"\n") == whole[:free].count(b"\n")
    assert not left or left.endswith(b"\n")


def test_rows_reach_the_disk(tmp_path, monkeypatch):
    """At once if the last time is long ago, and at the end in any case."""
    synced = []
    path = tmp_path / "out.jsonl"
    with Results(path) as store:
        store.describe(IDENTITY, {})
        monkeypatch.setattr(os, "fsync", lambda file: synced.append(path.read_bytes().count(b"\n")))
        store.add(ROWS[0], {})
        store._synced -= 3600
        store.add(ROWS[1], {})
        store.add(ROWS[2], {})
        assert synced in ([2], [1, 2], [1, 2, 3])
    assert synced[-1] == 3


def test_finished_rows_take_eight_bytes_each():
    finished = Finished()
    for line in range(1, 100_001):
        finished.add(line, f"{line % 7:012x}")
    finished.add(5, f"{5:012x}")
    assert finished.count == 100_000
    assert finished._known.itemsize * len(finished._known) == 800_008
