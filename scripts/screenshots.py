"""Take the pictures of reports and of the app that the docs show: ``python scripts/screenshots.py``, with Chromium.

The report is that of ``framefusion ask scenes.mp4 "…" --compare`` with the bundled model and video, the app answers the
same question; times in them are those of the machine that takes the pictures.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
IMAGES = ROOT / "docs" / "images"
REPORTS = {"light": IMAGES / "report.png", "dark": IMAGES / "report-dark.png"}
APP = IMAGES / "app.png"
QUESTION = "which large thing came after the red circle?"
WIDTH, HEIGHT = 1200, 1250
FRAME = 8
"""The frame that stands large in the pictures, from 0: the answer is in it."""

sys.path.insert(0, str(ROOT))


def main() -> None:
    from tests.asking.report.chromium import Chromium, executable

    if executable() is None:
        raise SystemExit("no Chromium is installed: scripts/system_packages.sh chromium")
    with Chromium() as browser:
        take_reports(browser)
        take_app(browser)


def take_reports(browser: Any) -> None:
    """The page of a report in both schemes."""
    from framefusion.assets import DEMO_VIDEO

    with tempfile.TemporaryDirectory() as folder:
        os.symlink(DEMO_VIDEO, Path(folder) / DEMO_VIDEO.name)
        asked = ["ask", DEMO_VIDEO.name, QUESTION, "--compare", "--report", "report.html"]
        subprocess.run([*command(), *asked], check=True, cwd=folder, env=environment())
        for scheme, path in REPORTS.items():
            browser.open((Path(folder) / "report.html").as_uri(), WIDTH, HEIGHT, scheme)
            browser.evaluate(f"document.querySelectorAll('.strip li')[{FRAME}].click()")
            without_scrollbar(browser, path)


def take_app(browser: Any) -> None:
    """The page of the app behind its first answer."""
    from tests.app.browser import Visitor

    serving = subprocess.Popen(
        [*command(), "app", "--port", "0"],
        stdout=subprocess.PIPE,
        text=True,
        env=environment(),
        cwd=tempfile.gettempdir(),
    )
    try:
        assert serving.stdout is not None
        address = next(found[0] for line in serving.stdout if (found := re.search(r"http://[\d.:]+", line)))
        visitor = Visitor(browser, address, WIDTH)
        window = {"width": WIDTH, "height": HEIGHT, "deviceScaleFactor": 1, "mobile": False}
        browser.call("Emulation.setDeviceMetricsOverride", **window)
        visitor.ask(QUESTION)
        visitor.wait("document.querySelectorAll('#player figure').length > 1")
        slider = "document.querySelector('#player input')"
        visitor.value(f"{slider}.value = {FRAME + 1}; {slider}.dispatchEvent(new Event('input', {{bubbles: true}}))")
        visitor.wait(f"!document.querySelectorAll('#player figure')[{FRAME}].hidden")
        without_scrollbar(browser, APP)
    finally:
        serving.terminate()
        serving.wait()


def without_scrollbar(browser: Any, path: Path) -> None:
    browser.evaluate("document.documentElement.style.scrollbarWidth = 'none'; scrollTo(0, 0)")
    browser.screenshot(path, whole=False)


def command() -> list[str]:
    return [sys.executable, "-m", "framefusion"]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT / "src"), "PYTHONUNBUFFERED": "1"}


if __name__ == "__main__":
    main()
