"""The one way in: attach a reduction to a Hugging Face video LLM, and ask what it did."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from framefusion.errors import ArgumentTypeError, StateError
from framefusion.hf import hooks, methods, recording, state, timing
from framefusion.hf.decoder import Decoder
from framefusion.hf.fitted import fitted_settings
from framefusion.hf.forgetting import bytes_by_column, features, held_anywhere, without
from framefusion.hf.prefix import ForkReached, Prefix, extension_of, media_end
from framefusion.hf.prefix_file import put_together
from framefusion.hf.shapes import EncoderCounter
from framefusion.hf.shown import run_card
from framefusion.hf.summary import DecoderSize, Summary, head_flops, summarize
from framefusion.hf.towers.tally import Encoded
from framefusion.reduction.held import Stage
from framefusion.reduction.layout import VisualLayout
from framefusion.reduction.reducer import Reduction
from framefusion.reduction.settings import FrameFusion
from framefusion.showing.notebook import Card


def attach(model: nn.Module, settings: FrameFusion | None = None, *, timed: bool = False) -> Run:
    """Reduce the visual tokens of every prefill of ``model`` until detached.

    Only hooks are added: weights, ``state_dict`` and config stay as they are, and after detaching, or with
    ``keep=1.0``, the logits are bit-identical to those of the plain model.

    Args:
        model: a video LLM of a supported family (``framefusion models`` lists them), with or without its
            language-model head.
        settings: what to reduce; default ``FrameFusion()``.
        timed: whether to measure where the time of a prefill goes, and to count the operations of the vision encoder,
            for :meth:`Run.summary`. A GPU is then waited for at the borders of tower, projector and decoder. Default
            False.

    Returns:
        A handle. As a context manager it always detaches; for long-lived use keep it and call ``detach()``::

            with framefusion.attach(model, FrameFusion(keep=0.2)) as run:
                model.generate(**inputs)
            print(run.summary())

    Raises:
        TypeError: an argument is of the wrong kind.
        UnsupportedModelError: the family is not supported; lists those that are.
        ValueError: the settings cannot be followed by this model, e.g. an unreachable cost; or ``stages="auto"`` and
            what was probed about it cannot be read.
        RuntimeError: the model has a reduction attached already.
    """
    if not isinstance(model, nn.Module):
        raise ArgumentTypeError(f"model must be a loaded Hugging Face model, got {type(model).__name__}.")
    settings = FrameFusion() if settings is None else settings
    if not isinstance(settings, FrameFusion):
        raise ArgumentTypeError(f"settings must be a FrameFusion, got {type(settings).__name__}.")
    return Run(model, settings, timed=timed)


class Run:
    """A reduction attached to a model; made by :func:`attach`.

    Its ``settings`` are those of :func:`attach`, with stages in the place of ``"auto"``; ``stages_from`` tells where
    the stages of a cost come from: ``"default"``, ``"given"`` or ``"probed"``, None without.

    Its attributes and summary are of the latest prefill of the calling thread (or task, see :mod:`contextvars`); where
    that ran none, as with a streamer beside ``generate()`` in a thread of its own, of the latest prefill of all.
    """

    def __init__(self, model: Any, settings: FrameFusion, *, timed: bool = False) -> None:
        decoder = Decoder(model)
        hooks.check_free(decoder)
        layers, first = len(decoder.layers), decoder.first
        self.settings, self.stages_from = fitted_settings(decoder.model, settings, layers, first)
        self.settings.check(layers, first)
        self._name = decoder.name
        self._attached: Decoder | None = decoder
        self._size = DecoderSize.of(decoder.layers, decoder.module.config, decoder.module.dtype)
        self._head = head_flops(decoder.model) if decoder.has_head else None
        self._record = state.Record()
        self._clock = timing.clock_of(decoder.model) if timed else None
        self._counter = EncoderCounter(decoder.multimodal)
        self._undo = hooks.install(decoder, self.settings, self._record, self._clock)

    def __repr__(self) -> str:
        try:
            present = self._latest().visual_per_layer
            latest = f"latest prefill kept {present[-1]} of {sum(map(len, self._latest().layouts))} visual tokens"
        except StateError:
            latest = "no prefill to tell of"
        where = "attached to" if self.attached else "detached from"
        return f"<Run of {self.settings!r}, {where} {self._name}, {latest}>"

    def _repr_html_(self) -> str:
        try:
            found = self.summary()
        except StateError:
            return Card(repr(self), None, (), (), 0).html()
        return run_card(self._name, found).html()

    def __enter__(self) -> Run:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.detach()

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise StateError(recording.NO_COPIES)

    def detach(self) -> None:
        """Remove every hook. Calling it again does nothing.

        A cache filled while attached can only be continued while attached.
        """
        methods.undo_all(self._undo)
        # A handle that is kept does not keep the model.
        self._attached = None
        state.end(self._record)

    @property
    def attached(self) -> bool:
        """Whether the hooks are in place."""
        return bool(self._undo)

    @property
    def stages(self) -> list[Stage]:
        """The stages of the latest prefill that reduced something, in order."""
        return list(self._latest().stages)

    @property
    def layout(self) -> list[VisualLayout]:
        """The visual tokens of each sample of the latest prefill, on the CPU."""
        return [layout.to(torch.device("cpu")) for layout in self._latest().layouts]

    @property
    def segments(self) -> list[Tensor]:
        """Per sample of the latest prefill, int64 on the CPU: the segment of each visual token, in the order of
        the layout; ids go on across the videos and images of a sample."""
        return [ids.cpu() for ids in self._latest().segments or []]

    @property
    def encoded(self) -> Encoded:
        """What the vision tower was given and encoded since it is attached, with ``tower``; in all threads."""
        return self._record.tower.total

    @property
    def tokens_per_layer(self) -> list[int]:
        """Visual tokens present in each decoder layer of the latest prefill, over the whole batch."""
        return list(self._latest().visual_per_layer)

    def summary(self) -> Summary:
        """What the latest prefill kept and saved; formulas at :class:`~framefusion.hf.summary.DecoderSize`.

        Raises:
            RuntimeError: no prefill has run yet.
        """
        reduction = self._latest()
        return summarize(
            self._size,
            reduction.original_lengths,
            reduction.visual_tokens,
            reduction.visual_per_layer,
            reduction.tokens_per_layer,
            sum(stage.milliseconds for stage in reduction.stages),
            None if self.stages_from is None else self.settings.steps,
            self.stages_from,
            self._record.tower.share if any("video" in layout.kinds for layout in reduction.layouts) else None,
            None if self._clock is None else self._counter.flops(self._clock.encodings),
            self._head,
            self.times,
        )

    @property
    def times(self) -> timing.Times | None:
        """Seconds of vision tower, projector and prefill of the latest prefill; None if it was not timed."""
        return None if self._clock is None else self._clock.times

    @property
    def all_times(self) -> timing.Times | None:
        """The same of all prefills since it is attached, prefixes too."""
        return None if self._clock is None else self._clock.total

    def extend(
        self,
        inputs: Mapping[str, Any],
        after: Prefix | None = None,
        *,
        columns: tuple[int, int] | None = None,
        continues: bool = False,
    ) -> Prefix:
        """Prefill the beginning of a prompt, for all that may follow it.

        Args:
            inputs: what the model is called with, of one sample, as its processor makes them.
            after: the prefix to add to, which stays as it is; None begins one.
            columns: the first of ``input_ids`` that is added and the one past the last; default from the first one to
                the last that a video or image fills, see :func:`framefusion.hf.prefix.media_end`.
            continues: whether the columns go on with the last video of ``after``. The call then has to show its last
                frames again, before those columns.

        Raises:
            ValueError: the prompt cannot be reduced, or the columns are none of it.
            RuntimeError: the model is in training mode, or the reduction is detached.
        """
        decoder = self._decoder
        if columns is None:
            columns = 0, media_end(decoder.model, inputs)
        extension = extension_of(self._record, decoder, inputs, *columns, after, continues=continues)
        state.change(extension=extension)
        try:
            with torch.no_grad():
                decoder.multimodal(**inputs, use_cache=False)
            extension.complete()
        except ForkReached:
            pass
        finally:
            state.change(extension=None)
            state.end(self._record)
            # They know each other, and would hold a whole cache until the next collection.
            extension.part = None
        assert extension.result is not None
        return extension.result

    def forget(self, prefix: Prefix, columns: Tensor) -> Prefix:
        """A prefix without some of the tokens that it holds; what they told later ones stays in those.

        Args:
            prefix: stays as it is.
            columns: ``(n,)`` int64, ascending: the columns of these tokens.
        """
        return without(self._decoder, prefix, columns)

    def features(self, prefix: Prefix, columns: Tensor) -> Tensor:
        """``(n, D)``: what tells some of the tokens that a prefix ends with apart."""
        return features(self._decoder, prefix, columns)

    def held_anywhere(self, prefix: Prefix) -> Tensor:
        """``(n,)`` int64, ascending: the columns of a prefix that some layer holds."""
        return held_anywhere(self._decoder, prefix)

    def bytes_by_column(self, prefix: Prefix) -> Tensor:
        """``(N,)`` int64: bytes that each column of a prefix takes in the layers that hold it."""
        return bytes_by_column(self._decoder, prefix)

    def put_together(self, tensors: dict[str, Tensor], values: Mapping[str, Any]) -> Prefix:
        """The prefix that :func:`framefusion.hf.prefix_file.taken_apart` took apart, made with these settings and this
        model."""
        return put_together(self._decoder, self.settings, tensors, values)

    def fork(self) -> int:
        """The first layer before which a stage goes by the question; as many as there are layers if none does."""
        return self.settings.fork(len(self._decoder.layers), self._decoder.first)

    @property
    def _decoder(self) -> Decoder:
        if self._attached is None:
            raise StateError("the reduction is detached; attach it again to extend or use a prefix.")
        return self._attached

    def _latest(self) -> Reduction:
        return self._record.latest()
