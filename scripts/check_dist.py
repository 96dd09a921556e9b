"""What the archives of a release hold: ``python scripts/check_dist.py DIRECTORY``; needs the standard library alone.

The directory has a wheel and a source archive of ``framefusion`` and of each package in ``packages/``, nothing else.
Prints their sizes; the first thing that is wrong ends it with an exit code.
"""

from __future__ import annotations

import argparse
import re
import sys
import tarfile
import zipfile
from email.parser import HeaderParser
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MEGABYTE = 1_000_000
LIMITS = {"framefusion": (12, 25), "framefusion-photos": (5, 5)}
"""Megabytes that the wheel and the source archive of a package may have."""
WHEEL = {
    "framefusion": {
        "framefusion/py.typed",
        "framefusion/assets/ATTRIBUTION.md",
        "framefusion/assets/tiny/model.safetensors",
        "framefusion/assets/tiny-qwen/model.safetensors",
        "framefusion/assets/videos/scenes.mp4",
        "framefusion/assets/videos/scenes.json",
        "framefusion/assets/videos/concert.mp4",
    },
    "framefusion-photos": {"framefusion_photos/py.typed", "framefusion_photos/checkpoint/model.safetensors"},
}
"""Files without which a wheel is of no use."""
BESIDES = {".gitignore", "PKG-INFO", "pyproject.toml"}
"""What lies at the top of a source archive beside what ``pyproject.toml`` includes."""
JUNK = re.compile(r"(^|/)(__pycache__|\.\w+_cache|\.venv|out|runs|dist|build)/|\.pyc$|\.egg-info/")


class WrongError(Exception):
    """An archive that must not be published."""


def check(right: bool, what: str) -> None:
    """Go on only if it is right."""
    if not right:
        raise WrongError(what)


def home(name: str) -> Path:
    """Where the repository has a package."""
    return ROOT if name == "framefusion" else ROOT / "packages" / name


def version_of(name: str) -> str:
    """The version that the repository gives a package, in the one place where it stands."""
    file = "src/framefusion/_version.py" if name == "framefusion" else "pyproject.toml"
    text = (home(name) / file).read_text(encoding="utf-8")
    (found,) = re.findall(r'^(?:__version__|version) = "(.*)"$', text, re.MULTILINE)
    return str(found)


def included(name: str) -> set[str]:
    """What the repository says should lie at the top of a source archive."""
    text = (home(name) / "pyproject.toml").read_text(encoding="utf-8")
    (block,) = re.findall(
        r"^\[tool\.hatch\.build\.targets\.sdist\]\ninclude = \[(.*?)\]$", text, re.MULTILINE | re.DOTALL
    )
    return set(re.findall(r'"/([^"]+)"', block)) | BESIDES


def wheel(name: str, path: Path) -> None:
    """The package alone, whole, with its licences and a page whose links work on PyPI."""
    module = name.replace("-", "_")
    with zipfile.ZipFile(path) as archive:
        files = set(archive.namelist())
        (metadata,) = (file for file in files if file.endswith(".dist-info/METADATA"))
        page = archive.read(metadata).decode()
    tops = {file.split("/")[0] for file in files}
    check(tops == {module, metadata.split("/")[0]}, f"{path.name} has {sorted(tops)} at its top")
    check(WHEEL[name] <= files, f"{path.name} lacks {sorted(WHEEL[name] - files)}")
    check(any(file.endswith("licenses/LICENSE") for file in files), f"{path.name} lacks its licence")
    junk = [file for file in files if JUNK.search(file)]
    check(not junk, f"{path.name} holds {junk[:3]}")
    declared = HeaderParser().parsestr(page)["Version"]
    check(declared == version_of(name), f"{path.name} is {declared}, the repository {version_of(name)}")
    broken = re.findall(r"\]\((?!https?://|#)[^)]*\)", page)
    check(not broken, f"{path.name}: links of its page that PyPI cannot follow: {broken[:3]}")


def source(name: str, path: Path) -> None:
    """What building and testing need, without anything that they leave behind."""
    with tarfile.open(path) as archive:
        files = [member.name.partition("/")[2] for member in archive.getmembers() if member.isfile()]
    tops = {file.split("/")[0] for file in files}
    wrong = sorted(tops ^ included(name))
    check(not wrong, f"{path.name}: more or less at its top than pyproject.toml includes: {wrong}")
    junk = [file for file in files if JUNK.search(file)]
    check(not junk, f"{path.name} holds {junk[:3]}")


def main() -> None:
    """Check every archive in the directory."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path)
    directory = parser.parse_args().directory
    try:
        expected = {}
        for name, limits in LIMITS.items():
            stem = f"{name.replace('-', '_')}-{version_of(name)}"
            expected[f"{stem}-py3-none-any.whl"] = (name, wheel, limits[0])
            expected[f"{stem}.tar.gz"] = (name, source, limits[1])
        found = {path.name for path in directory.iterdir()} - {".gitignore"}
        check(found == set(expected), f"{directory}: more or less than it should hold: {sorted(found ^ set(expected))}")
        for file, (name, look, limit) in expected.items():
            size = (directory / file).stat().st_size / MEGABYTE
            check(size <= limit, f"{file} has {size:.1f} MB, more than {limit}")
            look(name, directory / file)
            sys.stdout.write(f"{file}: {size:.1f} MB\n")
    except WrongError as error:
        raise SystemExit(f"not to be published: {error}") from error


if __name__ == "__main__":
    main()
