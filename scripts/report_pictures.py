"""Take the pictures of a report that the README shows: ``python scripts/report_pictures.py``, with Chromium installed.

The report is that of ``framefusion ask scenes.mp4 "…" --compare`` with the bundled model and video; times in it are
those of the machine that takes the pictures.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
IMAGES = ROOT / "docs" / "images"
PICTURES = {"light": IMAGES / "report.png", "dark": IMAGES / "report-dark.png"}
QUESTION = "which large thing came after the red circle?"
WIDTH, HEIGHT = 1200, 1250
FRAME = 8
"""The frame that stands large in the picture, from 0: the answer is in it."""

sys.path.insert(0, str(ROOT))


def main() -> None:
    from framefusion.assets import DEMO_VIDEO
    from tests.asking.report.chromium import Chromium, executable

    if executable() is None:
        raise SystemExit("no Chromium is installed: scripts/system_packages.sh chromium")
    with tempfile.TemporaryDirectory() as folder, Chromium() as browser:
        asked = ["ask", DEMO_VIDEO.name, QUESTION, "--compare", "--report", "report.html"]
        os.symlink(DEMO_VIDEO, Path(folder) / DEMO_VIDEO.name)
        environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
        subprocess.run([sys.executable, "-m", "framefusion", *asked], check=True, cwd=folder, env=environment)
        for scheme, path in PICTURES.items():
            browser.open((Path(folder) / "report.html").as_uri(), WIDTH, HEIGHT, scheme)
            browser.evaluate(f"document.querySelectorAll('.strip li')[{FRAME}].click()")
            browser.evaluate("document.documentElement.style.scrollbarWidth = 'none'")
            browser.screenshot(path, whole=False)


if __name__ == "__main__":
    main()
