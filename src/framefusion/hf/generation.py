"""What ``generate()`` puts around the forward passes of an attached model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextvars import ContextVar
from functools import partial, wraps
from typing import Any

import torch
from torch import nn

from framefusion.hf import graphs, refusals


class Generation:
    """One call of ``generate()``.

    Attributes:
        model: that generates.
        drafts: drafted tokens at the end of the present forward pass: no part of the prompt.
        aside: whether the present forward pass is not the first, so that a prompt without a video is not the caller's:
            guidance runs a negative prompt beside it.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.drafts, self.aside = 0, False
        self._begun, self._drafting = False, False

    def expect_drafts(self) -> None:
        """The next forward pass carries drafts behind the prompt."""
        self._drafting = True

    def forward(self, arguments: dict[str, Any]) -> None:
        """A forward pass of the model begins."""
        self.drafts = int(arguments.get("logits_to_keep") or 1) - 1 if self._drafting else 0
        self.aside, self._begun, self._drafting = self._begun, True, False


_current: ContextVar[Generation | None] = ContextVar("framefusion_generation", default=None)


def current(model: nn.Module) -> Generation | None:
    """The call of ``generate()`` of this very model that is under way in this context."""
    generation = _current.get()
    return generation if generation is not None and generation.model is model else None


def install(model: Any, *, reducing: bool) -> Iterator[Callable[[], None]]:
    """Follow the calls of a model with a head; gives the functions that undo it.

    Args:
        model: with a language-model head.
        reducing: whether the settings drop anything, so that what cannot be right is refused.
    """
    yield model.register_forward_pre_hook(partial(_enter, reducing), with_kwargs=True).remove
    yield replace(model, "generate", partial(_generating, model))
    yield replace(model, "_get_candidate_generator", partial(_after, partial(_expect_drafts, model)))
    if reducing:
        yield replace(model, "_prefill", partial(_after, refusals.chunks))
        for name in ("generate_batch", "init_continuous_batching", "continuous_batching_context_manager"):
            yield replace(model, name, partial(_after, refusals.batching))


def replace(owner: Any, name: str, make: Callable[[Callable[..., Any]], Callable[..., Any]]) -> Callable[[], None]:
    """Put ``make(method)`` in the place of a method of one object; nothing where it has none.

    Returns:
        the undo, after which the method does what it did, also where somebody else has wrapped ours meanwhile.
    """
    original = getattr(owner, name, None)
    if original is None:
        return lambda: None
    own, changed, attached = vars(owner).get(name), make(original), True

    @wraps(original)
    @graphs.inlined_only
    def method(*args: Any, **kwargs: Any) -> Any:
        return changed(*args, **kwargs) if attached else original(*args, **kwargs)

    def undo() -> None:
        nonlocal attached
        attached = False
        if vars(owner).get(name) is not method:
            return
        if own is None:
            delattr(owner, name)
        else:
            setattr(owner, name, own)

    setattr(owner, name, method)
    return undo


def _enter(reducing: bool, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    if not torch.compiler.is_compiling():
        generation = current(module)
        if generation is not None:
            generation.forward(kwargs)
    if reducing:
        refusals.head(kwargs)


def _generating(model: nn.Module, generate: Callable[..., Any]) -> Callable[..., Any]:
    def generating(*args: Any, **kwargs: Any) -> Any:
        token = _current.set(Generation(model))
        try:
            return generate(*args, **kwargs)
        finally:
            _current.reset(token)

    return generating


def _after(check: Callable[..., None], method: Callable[..., Any]) -> Callable[..., Any]:
    def checked(*args: Any, **kwargs: Any) -> Any:
        check(*args, **kwargs)
        return method(*args, **kwargs)

    return checked


def _expect_drafts(model: nn.Module, *args: Any, **kwargs: Any) -> None:
    """Before assisted decoding, whose first forward pass carries drafts behind the prompt."""
    generation = current(model)
    if generation is not None:
        generation.expect_drafts()
