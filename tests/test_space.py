"""The folder of a Hugging Face Space: what its front matter promises, and options that ``framefusion app`` takes."""

from __future__ import annotations

import os
import re
import runpy
import sys
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from framefusion.cli import app

ROOT = Path(__file__).resolve().parent.parent
SPACE = ROOT / "examples" / "space"


def test_the_front_matter_names_what_is_there() -> None:
    _, front, page = (SPACE / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    told = yaml.safe_load(front)
    assert (told["sdk"], told["license"]) == ("gradio", "apache-2.0")
    assert (SPACE / told["app_file"]).is_file()
    declared = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    (bound,) = re.findall(r'^app = \["gradio>=([\d.]+)"\]$', declared, re.MULTILINE)
    assert told["sdk_version"].startswith(bound)
    assert len(told["short_description"]) <= 60
    assert "framefusion" in page


def test_the_command_takes_its_options(monkeypatch: pytest.MonkeyPatch) -> None:
    """All but the port, which is refused behind the others."""
    ran: list[list[str]] = []
    monkeypatch.setattr(os, "execv", lambda program, command: ran.append(command))
    runpy.run_path(str(SPACE / "app.py"), run_name="__main__")
    ((program, *module), arguments) = ran[0][:3], ran[0][3:]
    assert (program, module) == (sys.executable, ["-m", "framefusion"])
    assert arguments[0] == "app"
    done = CliRunner().invoke(app, [*arguments, "--port", "-1"])
    assert done.exit_code == 2
    assert "--port must be from 0 to 65535" in done.output
