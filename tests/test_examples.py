"""The examples run as they are, on the bundled models; those of Ray and vLLM in ``tests/batch`` and ``tests/vllm``."""

from __future__ import annotations

import ast
import json
import runpy
from pathlib import Path

import pytest

from framefusion.assets import BUNDLED, DEMO_VIDEO

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
SCRIPTS = sorted(EXAMPLES.glob("*.py"))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_short_and_say_how_they_are_run(script: Path) -> None:
    text = script.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 60
    assert f"\n    python examples/{script.name} " in (ast.get_docstring(ast.parse(text), clean=False) or "")


def test_the_script_of_the_model_card(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    torchcodec = pytest.importorskip("torchcodec", reason="the extra torchcodec is not installed")
    if torchcodec.ffmpeg_major_version is None:
        pytest.skip("torchcodec found no FFmpeg: scripts/system_packages.sh ffmpeg")
    model, question = str(BUNDLED["bundled-qwen"]), "what colour is the star?"
    script = EXAMPLES / "qwen2_5_vl.py"
    monkeypatch.setattr("sys.argv", [script.name, str(DEMO_VIDEO), question, "--model", model, "--fps", "4"])
    runpy.run_path(str(script), run_name="__main__")
    answer, kept = capsys.readouterr().out.strip().splitlines()[-2:]
    assert answer == "green"
    assert kept == "68 of 1024 visual tokens kept, 20% on average over the layers"


def shown(value: object) -> str:
    """What a notebook shows of the value of a cell."""
    html = getattr(value, "_repr_html_", None)
    return str(value) if html is None else html()


def test_the_notebook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Every code cell one after the other, what is installed aside, and nothing of it is stored in the file."""
    cells = json.loads((EXAMPLES / "quickstart.ipynb").read_text(encoding="utf-8"))["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)
    sources = {cell["id"]: "".join(cell["source"]) for cell in code}
    assert sources.pop("install") == "%pip install -q framefusion"
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    said = {}
    for name, source in sources.items():
        tree = ast.parse(source)
        last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
        exec(compile(tree, name, "exec"), names)
        value = None if last is None else eval(compile(ast.Expression(last.value), name, "eval"), names)
        said[name] = capsys.readouterr().out + ("" if value is None else shown(value))
    assert "all tokens: red diamond\nreduced:    red diamond\n" in said["ask"]
    assert "<img" in said["see"]
    assert [line.split(" → ")[1] for line in said["session"].splitlines()] == [
        "red diamond",
        "green",
        "purple",
        "up",
        "fourth",
    ]
    assert "green" in said["own"]
    assert "green\n" in said["generate"]
    assert "<" in said["generate"]
