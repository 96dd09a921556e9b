"""What ``generate()`` puts around the forward passes of an attached model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import nn

from framefusion.hf import methods, refusals, state


def install(model: Any, *, reducing: bool) -> Iterator[Callable[[], None]]:
    """Follow the calls of a model with a head; gives the functions that undo it.

    Args:
        model: with a language-model head.
        reducing: whether the settings drop anything, so that what cannot be right is refused.
    """
    yield model.register_forward_pre_hook(partial(_enter, reducing), with_kwargs=True).remove
    yield methods.replace(model, "generate", partial(_generating, model))
    yield methods.replace(model, "_get_candidate_generator", partial(_after, partial(_expect_drafts, model)))
    if reducing:
        yield methods.replace(model, "_prefill", partial(_after, refusals.chunks))
        for name in ("generate_batch", "init_continuous_batching", "continuous_batching_context_manager"):
            yield methods.replace(model, name, partial(_after, refusals.batching))


def _enter(reducing: bool, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    if not torch.compiler.is_compiling():
        generation = state.generation_of(module)
        if generation is not None:
            generation.forward(kwargs)
    if reducing:
        refusals.head(kwargs)


def _generating(model: nn.Module, generate: Callable[..., Any]) -> Callable[..., Any]:
    def generating(*args: Any, **kwargs: Any) -> Any:
        outer = state.current().generation
        ids = kwargs.get("input_ids", kwargs.get("inputs", args[0] if args else None))
        state.change(generation=state.Generation(model, ids))
        try:
            return generate(*args, **kwargs)
        finally:
            state.change(generation=outer)

    return generating


def _after(check: Callable[..., None], method: Callable[..., Any]) -> Callable[..., Any]:
    def checked(*args: Any, **kwargs: Any) -> Any:
        check(*args, **kwargs)
        return method(*args, **kwargs)

    return checked


def _expect_drafts(model: nn.Module, *args: Any, **kwargs: Any) -> None:
    """Before assisted decoding, whose first forward pass carries drafts behind the prompt."""
    generation = state.generation_of(model)
    if generation is not None:
        generation.expect_drafts()
