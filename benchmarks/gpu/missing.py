"""The wheels in a folder whose packages are not installed, a line each.

python -m benchmarks.gpu.missing FOLDER
"""

from __future__ import annotations

import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path


def missing(folder: Path) -> list[Path]:
    """Those whose package has no release here; what is installed stays as it is, of whichever release."""
    return [path for path in sorted(folder.glob("*.whl")) if not _is_installed(path.name.split("-")[0])]


def _is_installed(package: str) -> bool:
    try:
        version(package)
    except PackageNotFoundError:
        return False
    return True


if __name__ == "__main__":
    print(*missing(Path(sys.argv[1])), sep="\n")
