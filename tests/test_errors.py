"""What framefusion refuses is a FrameFusionError everywhere, and the built-in class that Python code expects."""

from __future__ import annotations

import ast
import builtins
from pathlib import Path

import pytest
import torch

import framefusion
import framefusion.asking.video

PACKAGE = Path(framefusion.__file__).parent
ALLOWED = {"AttributeError", "NotImplementedError", "StopIteration"}
"""What Python itself expects: of a module's attributes, of methods that are never called, and of iterators."""


def raised(path: Path) -> set[str]:
    """Names of the built-in exceptions that a file raises."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Raise) and node.exc is not None:
            called = node.exc.func if isinstance(node.exc, ast.Call) else node.exc
            if isinstance(called, ast.Name) and isinstance(getattr(builtins, called.id, None), type):
                names.add(called.id)
    return names


def test_no_file_raises_a_bare_built_in_exception() -> None:
    found = {str(path.relative_to(PACKAGE)): raised(path) - ALLOWED for path in sorted(PACKAGE.rglob("*.py"))}
    assert {path: names for path, names in found.items() if names} == {}


def exceptions(path: Path) -> dict[str, list[str]]:
    """The exception classes that a file defines, with the names of their bases."""
    classes = [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.ClassDef)]
    return {
        node.name: [base.id for base in node.bases if isinstance(base, ast.Name)]
        for node in classes
        if node.name.endswith("Error")
    }


def test_every_exception_of_ours_has_the_base() -> None:
    bases: dict[str, list[str]] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        for name, own in exceptions(path).items():
            assert name not in bases, f"two classes are called {name}"
            bases[name] = own

    def has_base(name: str) -> bool:
        return name == "FrameFusionError" or any(has_base(base) for base in bases.get(name, ()))

    assert len(bases) > 15
    assert [name for name in bases if not has_base(name)] == []


def test_a_service_catches_ours_by_one_class_and_by_the_usual_ones() -> None:
    for expected in (framefusion.FrameFusionError, ValueError):
        with pytest.raises(expected, match="keep"):
            framefusion.FrameFusion(keep=2.0)
    for expected in (framefusion.FrameFusionError, TypeError):
        with pytest.raises(expected, match="features"):
            framefusion.select_tokens([1.0], torch.ones(1), None, 1)  # type: ignore[arg-type]
    for expected in (framefusion.FrameFusionError, ValueError):
        with pytest.raises(expected, match="no such file"):
            framefusion.asking.video.read_video("nowhere.mp4")
