"""A vision tower over fewer rows than it is given: the hooks, and what a way to do so has to say."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any
from weakref import WeakSet

from torch import Tensor, nn
from transformers import AttentionInterface

from framefusion.hf import methods, recording
from framefusion.hf.towers.base import Tower

_NAME = "framefusion_tower"


class Run(ABC):
    """One call of a tower.

    Args:
        implementation: name of the tower's own attention function.
    """

    over = False
    """Whether the blocks that are left run over all rows, as the tower's own."""

    def __init__(self, implementation: str) -> None:
        self.implementation = implementation

    @abstractmethod
    def enter(
        self, index: int, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments of a block, for the rows that run."""

    @abstractmethod
    def attend(
        self, module: Any, query: Tensor, key: Tensor, value: Tensor, function: Callable[..., Any], **kwargs: Any
    ) -> Tensor:
        """Attention of the rows that run, by the tower's own function.

        Args:
            module: the attention module.
            query, key, value: ``(1, heads, R, d)``.
            function: ``(module, query, key, value, mask, **kwargs)`` → ``(B, n, heads, d)`` and weights.

        Returns:
            ``(1, R, heads, d)``.
        """

    def leave(self, index: int, hidden: Tensor) -> Tensor:
        """What goes on behind a block."""
        return hidden

    def before_end(self, hidden: Tensor) -> Tensor:
        """What a module behind the blocks is given."""
        return hidden

    def behind_end(self, hidden: Tensor) -> Tensor:
        """What one of :meth:`~framefusion.hf.towers.base.Tower.ends` gives."""
        return hidden

    @abstractmethod
    def spread(self, hidden: Tensor) -> Tensor:
        """All rows, of those that ran, in the shape that the tower gives them."""


attached: WeakSet[nn.Module] = WeakSet()
"""Models whose tower runs over fewer rows."""

active: ContextVar[Run | None] = ContextVar("framefusion_tower_run", default=None)
"""The run under way, in this context."""


@contextmanager
def running(run: Run | None) -> Iterator[None]:
    """The tower's blocks run this way inside the block."""
    token = active.set(run)
    try:
        yield
    finally:
        active.reset(token)


class TowerConfig(recording.RecordingConfig):
    """A config that names the attention function of a run while one is under way."""

    def __getattr__(self, name: str) -> Any:
        if name == "_attn_implementation" and (run := active.get()) is not None and not run.over:
            return _NAME
        return super().__getattr__(name)


def _attention(module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any, **kwargs: Any) -> Any:
    run = active.get()
    assert run is not None
    function = recording.attention_function(module, run.implementation)
    # Inside, the module sees its real config: flash attention picks its kernel by it.
    with running(None):
        return run.attend(module, query, key, value, function, **kwargs), None


def hooks(kind: Tower, tower: Any) -> Iterator[Callable[[], None]]:
    """Let a tower run over fewer rows wherever a run is under way; gives the functions that undo it."""
    blocks = list(kind.blocks(tower))
    for index, block in enumerate(blocks):
        yield block.register_forward_pre_hook(partial(_before_block, index), with_kwargs=True).remove
        yield block.register_forward_hook(partial(_behind_block, index)).remove
        yield _configured(kind.attention(block))
    for end in kind.ends(tower):
        if not any(end is block for block in blocks):
            yield end.register_forward_pre_hook(_before_end).remove
        yield end.register_forward_hook(_behind_end).remove
    # Behind an end the last states are whole already, if the last block is one.
    ended = any(end is blocks[-1] for end in kind.ends(tower))
    names = ("hidden_states",) if ended else ("last_hidden_state", "hidden_states")
    yield methods.replace(tower, "forward", partial(_whole_outputs, names))


def _before_block(index: int, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    run = active.get()
    return None if run is None else run.enter(index, args, kwargs)


def _behind_block(index: int, module: nn.Module, args: Any, output: Any) -> Any:
    run = active.get()
    return None if run is None else _first(output, partial(run.leave, index))


def _before_end(module: nn.Module, args: tuple[Any, ...]) -> Any:
    run = active.get()
    return None if run is None else (run.before_end(args[0]), *args[1:])


def _behind_end(module: nn.Module, args: Any, output: Any) -> Any:
    run = active.get()
    return None if run is None else _first(output, run.behind_end)


def _first(output: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """The output of a module with its hidden states changed."""
    return (change(output[0]), *output[1:]) if isinstance(output, tuple) else change(output)


def _configured(module: Any) -> Callable[[], None]:
    original = module.config
    module.config = TowerConfig(original, module)

    def undo() -> None:
        module.config = original

    return undo


def _whole_outputs(names: Sequence[str], forward: Callable[..., Any]) -> Callable[..., Any]:
    """The tower's forward pass, whose hidden states, in the outputs of these names, are those of all rows."""

    def whole(*args: Any, **kwargs: Any) -> Any:
        run, output = active.get(), forward(*args, **kwargs)
        if run is None:
            return output
        for name in names:
            value = getattr(output, name, None)
            if isinstance(value, Tensor):
                output[name] = run.spread(value)
            elif value is not None:
                output[name] = tuple(own if own is None else run.spread(own) for own in value)
        return output

    return whole


AttentionInterface.register(_NAME, _attention)
