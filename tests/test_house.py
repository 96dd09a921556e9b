"""The house: the map in CONTRIBUTING is the tree, arrows between rooms go down only, no modules import in circles."""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "src" / "framefusion"
FLOORS = (
    ("selection", "showing"),
    ("reduction",),
    ("hf", "bench"),
    ("asking",),
    ("evaluation",),
    ("app", "batch", "vllm", "lmms"),
    ("cli",),
)
"""Rooms from the ground up; those of one floor do not know each other."""
EVERYWHERE = {"", "_version", "ahead", "assets", "checks", "errors", "log", "progress", "supervision"}
"""Modules at the root that every room may use."""
ABOVE = {"__main__", "interface", "main"}
"""Modules at the root that may use every room."""


def modules() -> dict[str, Path]:
    """Every module of the package by its name without ``framefusion.``; packages have that of their folder."""
    found = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


def imported(path: Path) -> Iterator[str]:
    """What a module imports of the package when it is run or used, functions included, annotations not."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    unused = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in unused:
            continue
        names: list[str] = []
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "framefusion":
            home = (node.module or "").partition(".")[2]
            inside = [f"{home}.{alias.name}".strip(".") for alias in node.names]
            names = [name if name in MODULES else home for name in inside]
        elif isinstance(node, ast.Import):
            names = [alias.name.partition(".")[2] for alias in node.names if alias.name.split(".")[0] == "framefusion"]
        yield from names


def floor_of(room: str) -> int:
    return next(number for number, rooms in enumerate(FLOORS) if room in rooms)


def test_every_module_at_the_root_is_known() -> None:
    rooms = {room for floor in FLOORS for room in floor}
    assert {name.split(".")[0] for name in MODULES} - rooms == EVERYWHERE | ABOVE


@pytest.mark.parametrize("name", sorted(MODULES))
def test_arrows_go_down(name: str) -> None:
    room = name.split(".")[0]
    if room in ABOVE:
        return
    for other in imported(MODULES[name]):
        target = other.split(".")[0]
        if room in EVERYWHERE:
            assert target in EVERYWHERE, f"{name} is used everywhere and imports {other}"
        elif target not in EVERYWHERE | {room}:
            assert target not in ABOVE, f"{name} imports {other}"
            assert floor_of(target) < floor_of(room), f"{name} imports {other}, which is not below it"


def test_no_modules_import_in_circles() -> None:
    graph = {name: {other for other in imported(path) if other != name} for name, path in MODULES.items()}
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " -> ".join((*path[path.index(name) :], name))
        if name not in done:
            for other in sorted(graph.get(name, ())):
                visit(other, (*path, name))
            done.add(name)

    for name in sorted(graph):
        visit(name, ())


def test_the_map_in_contributing_is_the_tree() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^```text\n(cli/.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert len(block.splitlines()) <= 40, "the map fits one screen"
    named, inside = set(), ""
    for line in block.splitlines():
        indent = len(line) - len(line.lstrip())
        for word in re.findall(r"^\s*((?:[\w.]+/?\s{1,3})+)", line + "   ")[0].split():
            if word.endswith("/"):
                inside = word if indent == 0 else inside
                named.add(word if indent == 0 else inside + word)
            elif word.endswith(".py"):
                named.add(word)
    rooms = {f"{path.name}/" for path in PACKAGE.iterdir() if (path / "__init__.py").exists()}
    outside = {"training/", "benchmarks/", "docs/", "tests/", "scripts/", "packages/", "examples/"}
    assert {name for name in named if name.count("/") == 1} == rooms | outside
    for name in named:
        assert (PACKAGE / name).exists() or (ROOT / name).exists(), name
    parts = {
        f"{path.parent.relative_to(PACKAGE)}/"
        for path in PACKAGE.glob("*/*/__init__.py")
        if path.parent.parent.name != "assets"
    }
    assert parts <= named


@pytest.mark.parametrize(("subject", "fits"), [("x" * 72, True), ("x" * 73, False)])
def test_the_hook_holds_subjects_to_72_characters(tmp_path: Path, subject: str, fits: bool) -> None:
    message = tmp_path / "message"
    message.write_text(f"{subject}\n\nWhat is behind it says why, in lines as long as they need to be.\n")
    done = subprocess.run([ROOT / "scripts" / "check_subject.sh", message], capture_output=True, text=True, check=False)
    assert (done.returncode == 0) is fits
    assert ("73 characters" in done.stderr) is not fits
