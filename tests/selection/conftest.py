"""Every backend under one fixture; Gram–Schmidt is reached by lowering the length at which it takes over.

With ``--device`` the features of every call are on that device, and only what takes a backend is run:

    TRITON_INTERPRET=0 python -m pytest tests/selection --device cuda
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch

from framefusion.selection import plan
from tests.selection import elsewhere

FAST = ["numba", "torch", "gram-schmidt", "triton", "triton-steps", "triton-gram-schmidt"]


_whole = False
_device: torch.device | None = None


def pytest_configure(config: pytest.Config) -> None:
    global _whole, _device
    _whole = config.getoption("--whole-interpreter")
    if (name := config.getoption("--device")) is not None:
        _device = torch.device(name)
    if _device is not None and _device.type != "cpu" and os.environ.get("TRITON_INTERPRET") == "1":
        raise pytest.UsageError(
            f"--device {name} is for kernels that are compiled, and TRITON_INTERPRET=1; set TRITON_INTERPRET=0"
        )


def interpreting() -> bool:
    """Whether Triton kernels run on CPU tensors, in the interpreter."""
    return _device is None or _device.type == "cpu"


def small(name: str) -> bool:
    """Whether a backend runs in an interpreter, thousands of times slower: fewer and smaller inputs, same checks."""
    return name.startswith("triton") and interpreting() and not _whole


def use(name: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """A backend name for select_tokens, with the lengths lowered at which what ``name`` stands for takes over."""
    if name.startswith("triton"):
        kernels = pytest.importorskip("framefusion.selection.triton_kernels", exc_type=ImportError)
        from framefusion.selection import triton_plan

        if interpreting() != kernels.INTERPRETED:
            pytest.skip(f"Triton was imported with{'' if kernels.INTERPRETED else 'out'} TRITON_INTERPRET=1")
        if name == "triton-steps":
            for module in (kernels, triton_plan):
                monkeypatch.setattr(module, "STEP_TILE", 32)
            monkeypatch.setattr(triton_plan, "RESIDENT", 0)
    if name.endswith("gram-schmidt"):
        monkeypatch.setattr(plan, "LONG_SEGMENT", 0)
    # On a CPU that is Numba's.
    plain = "auto" if _device is None else "torch"
    return {"gram-schmidt": plain}.get(name, name.split("-")[0])


@pytest.fixture(params=FAST)
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """A backend name for select_tokens."""
    return use(request.param, monkeypatch)


@pytest.fixture
def interpreted(request: pytest.FixtureRequest) -> bool:
    """Whether :func:`backend` runs in an interpreter."""
    return small(request.node.callspec.params["backend"])


@pytest.fixture
def device() -> torch.device:
    """Where the features of :func:`~framefusion.select_tokens` are."""
    return torch.device("cpu") if _device is None else _device


@pytest.fixture(autouse=True)
def _on_device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The functions that a test module calls take features on the CPU and give them on to the device."""
    if _device is None:
        return
    for name in elsewhere.FUNCTIONS:
        if hasattr(request.module, name):
            monkeypatch.setattr(request.module, name, elsewhere.on(_device, getattr(request.module, name)))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """NumPy warns in the interpreter of overflow that kernels mask. ``--device`` leaves out what it is nothing to."""
    for item in items:
        item.add_marker(pytest.mark.filterwarnings("ignore::RuntimeWarning:triton"))
        item.add_marker(pytest.mark.filterwarnings("ignore::RuntimeWarning:numpy"))
    if _device is not None:
        runs = [item for item in items if _backend_of(item) in elsewhere.BACKENDS]
        config.hook.pytest_deselected(items=[item for item in items if item not in set(runs)])
        items[:] = runs


def _backend_of(item: pytest.Item) -> str | None:
    """The backend that a test is run with."""
    given = getattr(item, "callspec", None)
    own = None if given is None else given.params.get("backend", given.params.get("name"))
    return own if isinstance(own, str) else None


@pytest.fixture(autouse=True, scope="session")
def quicker_interpreter() -> Iterator[None]:
    """Triton's interpreter patches the whole language for each call of a helper; where it is patched, that is idle."""
    try:
        from triton import language
        from triton.runtime import interpreter
    except ImportError:
        yield
        return
    patch = interpreter._patch_lang

    def patch_once(function):  # type: ignore[no-untyped-def]
        known = [m for m in (language, language.core) if m in function.__globals__.values()]
        if any(language.core.is_builtin(m.load) for m in known):
            return patch(function)
        return interpreter._LangPatchScope()

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(interpreter, "_patch_lang", patch_once)
        yield
