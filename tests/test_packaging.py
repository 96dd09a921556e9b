"""What pyproject.toml declares: every import, a lower bound for each, a reason for each upper one."""

from __future__ import annotations

import ast
import re
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
DECLARED = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
REQUIREMENT = re.compile(r'"([A-Za-z][\w.-]*)(?:\[[\w,]+\])?((?:[<>=!~]=?[\d.*,]+)*)(?:;[^"]*)?"')
HOST = {"vllm": "the plugin runs inside it, and names what it wants in tests/vllm/requirements.txt"}
"""What is imported only by code that it starts itself."""
BROUGHT = {"triton": "torch brings it where it exists, and find_spec is asked before"}
NAMES = {
    "lmms_eval": "lmms-eval",
    "linear_operator": "linear-operator",
    "submodlib": "submodlib-py",
    "sklearn": "scikit-learn",
}
"""Distributions of modules that need not be installed here."""
# What 3.11 to 3.14 took out of the standard library, of what an import of a module shows.
REMOVED = {"asynchat", "asyncore", "smtpd", "imp", "distutils", "cgi", "cgitb", "crypt", "imghdr", "sndhdr", "pipes"}
REMOVED |= {
    "telnetlib",
    "audioop",
    "nntplib",
    "uu",
    "xdrlib",
    "aifc",
    "chunk",
    "mailcap",
    "msilib",
    "nis",
    "ossaudiodev",
}
REMOVED |= {"spwd", "sunau", "lib2to3"}
REMOVED_NAMES = {
    "ast": {"Num", "Str", "Bytes", "NameConstant", "Ellipsis"},
    "asyncio": {"get_child_watcher", "set_child_watcher", "AbstractChildWatcher", "ThreadedChildWatcher"},
    "importlib.abc": {"ResourceReader", "Traversable", "TraversableResources"},
    "pkgutil": {"find_loader", "get_loader", "ImpImporter", "ImpLoader"},
    "pty": {"master_open", "slave_open"},
    "typing": {"ByteString"},
    "collections.abc": {"ByteString"},
    "locale": {"resetlocale"},
    "tempfile": {"template"},
    "unittest": {"makeSuite", "findTestCases"},
}


def sections() -> list[str]:
    """The lines of the lists of requirements, with their comments."""
    lines, inside = [], False
    for line in DECLARED.splitlines():
        if line.startswith("["):
            inside = line in ("[project]", "[project.optional-dependencies]")
        elif inside:
            lines.append(line)
    start = next(i for i, line in enumerate(lines) if line.startswith("dependencies"))
    return lines[start:]


def requirements() -> dict[str, list[str]]:
    """The constraints of each distribution that is declared anywhere."""
    found: dict[str, list[str]] = {}
    for line in sections():
        if not line.lstrip().startswith("#"):
            for name, constraint in REQUIREMENT.findall(line):
                found.setdefault(name.lower(), []).append(constraint)
    return found


def imports() -> dict[str, set[str]]:
    """Files by the module of another package that they import."""
    found: dict[str, set[str]] = {}
    for path in sorted((ROOT / "src").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
                names = [node.module]
            for name in names:
                top = name.split(".")[0]
                if top not in sys.stdlib_module_names and top != "framefusion":
                    found.setdefault(top, set()).add(path.name)
    return found


def test_every_import_is_declared() -> None:
    declared = {re.sub(r"[-_.]+", "-", name) for name in requirements()}
    distributions = packages_distributions()
    missing = {}
    for module, files in imports().items():
        names = {NAMES[module]} if module in NAMES else set(distributions.get(module, [module]))
        normal = {re.sub(r"[-_.]+", "-", name).lower() for name in names}
        if not normal & declared and module not in HOST and module not in BROUGHT:
            missing[module] = sorted(files)
    assert missing == {}


@pytest.mark.parametrize("name", sorted(requirements()))
def test_every_requirement_has_a_lower_bound(name: str) -> None:
    lower = [re.search(r"[>=]=[\d.]+", constraint) for constraint in requirements()[name]]
    assert name == "framefusion" or any(lower)


def test_no_upper_bound_without_a_reason_beside_it() -> None:
    """A comment above it, or above the list that it is in."""
    lines = sections()
    bare = []
    for i, line in enumerate(lines):
        above = [other for other in lines[max(0, i - 2) : i] if other.lstrip().startswith("#")]
        capped = [c for _, c in REQUIREMENT.findall(line) if re.search(r"<|==|~=", c)]
        if capped and not above and not line.lstrip().startswith("#"):
            bare.append(line.strip())
    assert bare == []
    python = re.search(r'requires-python = "(.*)"', DECLARED)
    assert python is not None
    assert "<" not in python[1]


def test_nothing_is_imported_that_python_removed() -> None:
    gone = []
    for folder in ("src", "tests", "scripts", "benchmarks", "training"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Import):
                    gone += [(path.name, a.name) for a in node.names if a.name.split(".")[0] in REMOVED]
                elif isinstance(node, ast.ImportFrom) and not node.level:
                    names = REMOVED_NAMES.get(node.module or "", set())
                    gone += [(path.name, a.name) for a in node.names if a.name in names]
                    gone += [(path.name, node.module)] * ((node.module or "").split(".")[0] in REMOVED)
                elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                    if node.attr in REMOVED_NAMES.get(node.value.id, set()):
                        gone.append((path.name, f"{node.value.id}.{node.attr}"))
    assert gone == []
