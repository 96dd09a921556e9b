"""What pyproject.toml declares: every import, a lower bound for each, a reason for each upper one."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
DECLARED = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
REQUIREMENT = re.compile(r'"([A-Za-z][\w.-]*)(?:\[[\w,]+\])?((?:[<>=!~]=?[\d.*,]+)*)(?:;[^"]*)?"')
UNDECLARED = {
    "vllm": "the plugin runs inside it, and names what it wants in tests/vllm/requirements.txt",
    "typing_extensions": "read by type checkers alone; torch and mypy bring it",
    "triton": "torch brings it where it exists, and find_spec is asked before",
}
"""What is imported only where something else has brought it."""
NAMES = {
    "linear_operator": "linear-operator",
    "lmms_eval": "lmms-eval",
    "sklearn": "scikit-learn",
    "submodlib": "submodlib-py",
}
"""Distributions of modules that need not be installed here."""
# What 3.11 to 3.14 took out of the standard library, as far as imports and attributes show it.
REMOVED = {"aifc", "asynchat", "asyncore", "audioop", "cgi", "cgitb", "chunk", "crypt", "distutils", "imghdr", "imp"}
REMOVED |= {
    "lib2to3",
    "mailcap",
    "msilib",
    "nis",
    "nntplib",
    "ossaudiodev",
    "pipes",
    "smtpd",
    "sndhdr",
    "spwd",
    "sunau",
}
REMOVED |= {"telnetlib", "uu", "xdrlib"}
REMOVED_NAMES = {
    "ast": {"Num", "Str", "Bytes", "NameConstant", "Ellipsis"},
    "asyncio": {"get_child_watcher", "set_child_watcher", "AbstractChildWatcher", "ThreadedChildWatcher"},
    "importlib.abc": {"ResourceReader", "Traversable", "TraversableResources"},
    "locale": {"resetlocale"},
    "pkgutil": {"find_loader", "get_loader", "ImpImporter", "ImpLoader"},
    "pty": {"master_open", "slave_open"},
    "unittest": {"makeSuite", "findTestCases"},
    "urllib.request": {"URLopener", "FancyURLopener"},
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
        if not normal & declared and module not in UNDECLARED:
            missing[module] = sorted(files)
    assert missing == {}


def test_every_requirement_has_a_lower_bound() -> None:
    bare = {name for name, all_of in requirements().items() if not any(re.search(r"[>=]=\d", one) for one in all_of)}
    assert bare == {"framefusion"}  # its own extras


def test_no_upper_bound_without_a_reason_beside_it() -> None:
    """A comment right above it."""
    lines = sections()
    bare = [
        line.strip()
        for above, line in zip(["", *lines], lines, strict=False)
        if not line.lstrip().startswith("#") and not above.lstrip().startswith("#")
        if any(re.search(r"<|==|~=", constraint) for _, constraint in REQUIREMENT.findall(line))
    ]
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
                elif isinstance(node, ast.Attribute):
                    owner = ast.unparse(node.value)
                    gone += [(path.name, f"{owner}.{node.attr}")] * (node.attr in REMOVED_NAMES.get(owner, set()))
    assert gone == []


@pytest.mark.parametrize(
    ("tag", "heading", "said"),
    [
        ("v1.2.0", "## [1.2.0] - 2026-11-30", ""),
        ("v1.3.0", "## [1.2.0] - 2026-11-30", "the tag is v1.3.0, the version in src/framefusion/_version.py 1.2.0"),
        ("v1.2.0", "## [1.2.0] - unreleased", "CHANGELOG.md has no section"),
    ],
)
def test_a_tag_is_the_version_and_has_its_changes(tmp_path: Path, tag: str, heading: str, said: str) -> None:
    (tmp_path / "scripts").mkdir()
    script = shutil.copy(ROOT / "scripts" / "check_tag.sh", tmp_path / "scripts")
    (tmp_path / "src/framefusion").mkdir(parents=True)
    (tmp_path / "src/framefusion/_version.py").write_text('__version__ = "1.2.0"\n')
    (tmp_path / "CHANGELOG.md").write_text(f"# Changelog\n\n{heading}\n\n- A thing.\n")
    done = subprocess.run([script, tag], capture_output=True, text=True, check=False)
    assert (done.returncode == 0) is not said
    assert said in done.stderr
