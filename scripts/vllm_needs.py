"""Write down what wheels of vLLM have of what framefusion needs: names and parameters, read from their sources.

    pip download --no-deps --only-binary :all: --platform manylinux_2_28_x86_64 vllm==0.33.0
    python scripts/vllm_needs.py vllm-0.33.0-*.whl

For each wheel a file in tests/vllm/needs, which tests/vllm/test_needs.py holds the plugin to. Neither installs vLLM nor
keeps any of its code.
"""

from __future__ import annotations

import ast
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from zipfile import ZipFile

from framefusion.vllm.hooks import needs_of
from framefusion.vllm.models import FAMILIES
from framefusion.vllm.needs import Need

HOME = Path(__file__).resolve().parent.parent / "tests" / "vllm" / "needs"
PRUNES = "supports_multimodal_pruning"
PROTOCOL = "SupportsMultiModalPruning"
"""The class whose children have a rule of their own."""


class Sources:
    """The modules in a wheel.

    Args:
        path: of the wheel.
    """

    def __init__(self, path: Path) -> None:
        self.wheel = ZipFile(path)
        self.names = set(self.wheel.namelist())
        self.trees: dict[str, ast.Module | None] = {}

    def tree(self, module: str) -> ast.Module | None:
        """What a module says; None if there is none of that name."""
        if module not in self.trees:
            stem = module.replace(".", "/")
            found = [name for name in (f"{stem}.py", f"{stem}/__init__.py") if name in self.names]
            self.trees[module] = ast.parse(self.wheel.read(found[0])) if found else None
        return self.trees[module]

    def lookup(self, where: str, name: str) -> ast.AST | None:
        """The definition of a name in a module or class, followed through imports; None if there is none."""
        tree = self.tree(where)
        if tree is not None:
            return self._in_module(where, tree, name)
        module, _, owner = where.rpartition(".")
        holder = self.lookup(module, owner) if module else None
        return _defined(holder.body, name) if isinstance(holder, ast.ClassDef) else None

    def _in_module(self, module: str, tree: ast.Module, name: str) -> ast.AST | None:
        found = _defined(tree.body, name)
        if found is not None:
            return found
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom):
                for alias in node.names:
                    if (alias.asname or alias.name) == name:
                        return self.lookup(self._absolute(module, node), alias.name)
        return None

    def _absolute(self, module: str, node: ast.ImportFrom) -> str:
        if not node.level:
            return node.module or ""
        parts = module.split(".")
        if f"{module.replace('.', '/')}/__init__.py" in self.names:
            parts.append("")
        return ".".join([*parts[: -node.level], *([node.module] if node.module else [])])

    def classes(self) -> Iterator[tuple[str, ast.ClassDef]]:
        """All classes of models with their modules."""
        for name in sorted(self.names):
            if name.startswith(("vllm/model_executor/models/", "vllm/models/")) and name.endswith(".py"):
                module = name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
                tree = self.tree(module)
                for node in tree.body if tree else []:
                    if isinstance(node, ast.ClassDef):
                        yield module, node

    def architectures(self) -> dict[str, str]:
        """The class that serves each architecture, by the registry's tables."""
        tree = self.tree("vllm.model_executor.models.registry")
        tables = [node.value for node in tree.body if isinstance(node, ast.Assign)] if tree else []
        entries: list[tuple[Any, Any]] = []
        for table in tables:
            if isinstance(table, ast.Dict):
                entries += zip(table.keys, table.values, strict=True)
        return {
            key.value: value.elts[1].value
            for key, value in entries
            if isinstance(key, ast.Constant) and isinstance(value, ast.Tuple) and len(value.elts) == 2
        }


def _defined(body: list[ast.stmt], name: str) -> ast.AST | None:
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name == name:
            return node
        targets = [node.target] if isinstance(node, ast.AnnAssign) else getattr(node, "targets", [])
        if any(isinstance(target, ast.Name) and target.id == name for target in targets):
            return node
    return None


def parameters(node: ast.AST | None) -> list[str] | None:
    """Of a function as ``inspect.signature`` lists them; None for what is none."""
    if not isinstance(node, ast.FunctionDef):
        return None
    decorators = [ast.unparse(decorator) for decorator in node.decorator_list]
    if "property" in decorators:
        return None
    of = node.args
    plain = [argument.arg for argument in [*of.posonlyargs, *of.args]]
    return [
        *plain,
        *([of.vararg.arg] if of.vararg else []),
        *(one.arg for one in of.kwonlyargs),
        *([of.kwarg.arg] if of.kwarg else []),
    ]


def needed() -> list[Need]:
    """Everything that any family needs, once."""
    every = {need.path: need for family in FAMILIES.values() for need in needs_of(family)}
    return [every[path] for path in sorted(every)]


def pruning_models(sources: Sources) -> dict[str, dict[str, Any]]:
    """The classes of models with a rule of their own: where, what they inherit from, what of our needs they define."""
    found: dict[str, dict[str, Any]] = {}
    classes, names, prunes = list(sources.classes()), {need.name for need in needed()}, {PROTOCOL}
    before = 0
    while before != len(prunes):
        before = len(prunes)
        for module, node in classes:
            bases = [ast.unparse(base) for base in node.bases]
            says_so = _defined(node.body, PRUNES) is not None and node.name != PROTOCOL
            if says_so or prunes.intersection(bases):
                prunes.add(node.name)
                known = found.setdefault(node.name, {"where": [], "bases": [], "defines": []})
                known["where"] = sorted({*known["where"], module})
                known["bases"] = sorted({*known["bases"], *bases})
                known["defines"] = sorted({*known["defines"], *(name for name in names if _defined(node.body, name))})
    return found


def extract(path: Path) -> dict[str, Any]:
    """What a wheel has of what is needed."""
    sources = Sources(path)
    models = pruning_models(sources)
    parts = {need.path: sources.lookup(need.where, need.name) for need in needed()}
    served = {name: of for name, of in sorted(sources.architectures().items()) if of in models}
    return {
        "version": path.name.split("-")[1],
        "parts": {name: parameters(node) for name, node in parts.items() if node is not None},
        "models": models,
        "architectures": served,
    }


def main() -> None:
    HOME.mkdir(exist_ok=True)
    for path in map(Path, sys.argv[1:]):
        found = extract(path)
        target = HOME / f"vllm-{found['version']}.json"
        target.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
