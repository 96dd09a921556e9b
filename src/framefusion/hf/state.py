"""What goes on in one thread or task: the call of ``generate()``, the forward pass, and the latest prefills."""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import Any
from weakref import WeakKeyDictionary

from torch import Tensor, nn

from framefusion.errors import StateError
from framefusion.hf import recording
from framefusion.hf.prefill import Prefill
from framefusion.hf.prefix import Extension
from framefusion.hf.towers.tally import Tally
from framefusion.reduction.reducer import Reduction


class Generation:
    """One call of ``generate()``.

    Attributes:
        model: that generates.
        ids: ``(B, N)`` int64, the prompt; None where it is given in another way.
        drafts: drafted tokens at the end of the present forward pass: no part of the prompt.
        aside: whether the present forward pass is not the first, so that a prompt without a video is not the caller's:
            guidance runs a negative prompt beside it.
    """

    def __init__(self, model: nn.Module, ids: Tensor | None = None) -> None:
        self.model, self.ids = model, ids
        self.drafts, self.aside = 0, False
        self._begun, self._drafting = False, False

    def expect_drafts(self) -> None:
        """The next forward pass carries drafts behind the prompt."""
        self._drafting = True

    def forward(self, arguments: Mapping[str, Any]) -> None:
        """A forward pass of the model begins."""
        self.drafts = int(arguments.get("logits_to_keep") or 1) - 1 if self._drafting else 0
        self.aside, self._begun, self._drafting = self._begun, True, False


class Record:
    """The latest prefill of one attached reduction: that of the calling thread or task or, where it ran none, that of
    any.

    Attributes:
        tower: what the vision tower encoded.
    """

    def __init__(self) -> None:
        self.tower = Tally()
        self._latest: Reduction | None = None

    def note(self, reduction: Reduction | None) -> None:
        """A prefill begins; None before it is known whether it can be reduced."""
        self._latest = reduction
        others = {record: known for record, known in current().latest.items() if record is not self}
        change(latest=WeakKeyDictionary(others if reduction is None else {**others, self: reduction}))

    def latest(self) -> Reduction:
        """The reduction of the latest prefill.

        Raises:
            RuntimeError: there is none, or it did not reach its end.
        """
        reduction = current().latest.get(self, self._latest)
        if reduction is None:
            raise StateError("no prefill has run yet: call the model or model.generate() while attached.")
        if not reduction.finished:
            raise StateError("the latest prefill did not reach its end, so there is nothing to tell about it.")
        return reduction


class Forward:
    """One forward pass of an attached model over more than one token, between its first hook and its last.

    Attributes:
        record: of the reduction that is attached to the model.
        arguments: what the multimodal model was called with.
        prefill: from the decoder on; None before, and where the call is none.
        last: tokens that the head wants of a decoder that was kept from leaving the others out; 0 for all.
    """

    def __init__(self, record: Record, arguments: Mapping[str, Any]) -> None:
        self.record, self.arguments = record, arguments
        self.prefill: Prefill | None = None
        self.last = 0


@dataclass(frozen=True)
class State:
    """The state of one thread or task. Replaced, never changed: a copied context does not see what happens in another.

    Attributes:
        generation: the innermost call of ``generate()`` of an attached model under way.
        forward: the forward pass under way, of more than one token.
        extension: what the next forward pass of a model adds to the beginning of a prompt.
        latest: the latest prefill of each reduction.
    """

    generation: Generation | None = None
    forward: Forward | None = None
    extension: Extension | None = None
    latest: WeakKeyDictionary[Record, Reduction] = field(default_factory=WeakKeyDictionary)


_NONE = State()
_state: ContextVar[State | None] = ContextVar("framefusion_state", default=None)


def current() -> State:
    """The state of the calling thread or task."""
    return _state.get() or _NONE


def change(**fields: Any) -> None:
    """Replace fields of the state of the calling thread or task."""
    _state.set(replace(current(), **fields))


def begin(forward: Forward) -> None:
    """A forward pass begins."""
    change(forward=forward)
    recording.active.set(None)


def end(record: Record) -> None:
    """Forget the forward pass under way, also one that was interrupted: Ctrl-C runs no hook."""
    forward = current().forward
    if forward is not None and forward.record is record:
        change(forward=None)
        recording.active.set(None)


def generation_of(model: nn.Module) -> Generation | None:
    """The call of ``generate()`` of this very model that is under way."""
    generation = current().generation
    return generation if generation is not None and generation.model is model else None
