"""Every backend under one fixture; Gram–Schmidt is reached by lowering the length at which it takes over."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from framefusion.selection import plan

FAST = ["numba", "torch", "gram-schmidt", "triton", "triton-steps", "triton-gram-schmidt"]


_whole = False


def pytest_configure(config: pytest.Config) -> None:
    global _whole
    _whole = config.getoption("--whole-interpreter")


def small(name: str) -> bool:
    """Whether a backend runs in an interpreter, thousands of times slower: fewer and smaller inputs, same checks."""
    return name.startswith("triton") and not _whole


def use(name: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """A backend name for select_tokens, with the lengths lowered at which what ``name`` stands for takes over."""
    if name.startswith("triton"):
        kernels = pytest.importorskip("framefusion.selection.triton_kernels", exc_type=ImportError)
        from framefusion.selection import triton_plan

        if not kernels.INTERPRETED:
            pytest.skip("Triton was imported without TRITON_INTERPRET=1")
        if name == "triton-steps":
            for module in (kernels, triton_plan):
                monkeypatch.setattr(module, "STEP_TILE", 32)
            monkeypatch.setattr(triton_plan, "RESIDENT", 0)
    if name.endswith("gram-schmidt"):
        monkeypatch.setattr(plan, "LONG_SEGMENT", 0)
    return {"gram-schmidt": "auto"}.get(name, name.split("-")[0])


@pytest.fixture(params=FAST)
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """A backend name for select_tokens."""
    return use(request.param, monkeypatch)


@pytest.fixture
def interpreted(request: pytest.FixtureRequest) -> bool:
    """Whether :func:`backend` runs in an interpreter."""
    return small(request.node.callspec.params["backend"])


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """NumPy warns in the interpreter of overflow that kernels mask."""
    for item in items:
        item.add_marker(pytest.mark.filterwarnings("ignore::RuntimeWarning:triton"))
        item.add_marker(pytest.mark.filterwarnings("ignore::RuntimeWarning:numpy"))


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
