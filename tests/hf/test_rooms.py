"""How the files of :mod:`framefusion.hf` hang together."""

from __future__ import annotations

import ast
import traceback
from graphlib import TopologicalSorter
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import framefusion
import framefusion.hf
from framefusion import FrameFusion
from framefusion.reduction.reducer import Reduction
from tests.hf import models
from tests.hf.prompts import PROMPTS

ROOM = Path(framefusion.hf.__file__).parent


def imported(path: Path) -> set[str]:
    """The files of the room that a file imports, at any level; the families are one, and the towers."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module is not None:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    inside = {name.removeprefix("framefusion.hf.") for name in names if name.startswith("framefusion.hf.")}
    return {name.split(".")[0] for name in inside}


def arrows() -> dict[str, set[str]]:
    """What each file of the room imports, itself left out."""
    files = {path.stem: imported(path) for path in ROOM.glob("*.py") if path.stem != "__init__"}
    for part in ("families", "towers"):
        files[part] = set().union(*(imported(path) for path in (ROOM / part).glob("*.py")))
    return {name: own - {name} for name, own in files.items()}


def test_no_circles() -> None:
    """A circle is a ``CycleError`` that names its files."""
    found = arrows()
    order = list(TopologicalSorter(found).static_order())
    assert order.index("prefill") < order.index("hooks") < order.index("attach")
    assert found["families"] == {"towers"}


def test_hidden_states_go_straight_to_the_reduction(monkeypatch: pytest.MonkeyPatch) -> None:
    """From the hook through the prefill, and to no file again that was left."""
    walks: set[tuple[str, ...]] = set()
    original = Reduction.before_layer

    def seen(self: Reduction, layer: int, hidden: Tensor, received: Tensor | None = None) -> Tensor:
        files = [Path(frame.filename) for frame in traceback.extract_stack()]
        last = max(index for index, file in enumerate(files) if file.name == "module.py")
        walks.add(tuple(name for name, _ in groupby(file.stem for file in files[last + 1 : -1])))
        return original(self, layer, hidden, received)

    monkeypatch.setattr(Reduction, "before_layer", seen)
    case: Any = models.build("llava_onevision")
    with framefusion.attach(case.model, FrameFusion()), torch.no_grad():
        case.model(**case.inputs(PROMPTS["single"](case)))
    assert walks == {("hooks", "prefill")}
