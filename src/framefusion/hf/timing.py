"""Where the time of an answer goes: vision tower, projector, decoder, and what is around them.

Nothing is installed until somebody asks. Whoever does gets a :class:`Clock` that reads its time where a model's
``get_video_features()`` and ``get_image_features()``, its projector and its decoder begin and end, be it inside the
forward pass or ahead of it, as ``generate()`` encodes.
"""

from __future__ import annotations

import inspect
import statistics
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from typing import Any, get_args

import torch
from torch import Tensor, nn

from framefusion.hf import cache as caches
from framefusion.hf import graphs, methods, state
from framefusion.hf.calls import cache_of
from framefusion.hf.decoder import decoder_of
from framefusion.hf.families import find, unwrapped
from framefusion.reduction.layout import Kind

TOWER, PROJECTOR, PREFILL = "tower", "projector", "prefill"


@dataclass(frozen=True)
class Times:
    """Seconds of the parts of one answer; None where nobody measured.

    Attributes:
        decode: from the file to frames.
        processor: from frames to the model's inputs, prompt included.
        tower: pixels to features: the vision encoder with its pooling; None for a family whose projector nobody has
            told, and for what was encoded before.
        projector: features to the decoder's width.
        prefill: the decoder over the prompt, the reduction in it.
        other: the rest up to the first token: embeddings, positions, the language-model head, the library around.
        per_token: of every further token; None with a single one.
        first_token: of everything up to the first token: the sum of all that is above.
    """

    decode: float | None = None
    processor: float | None = None
    tower: float | None = None
    projector: float | None = None
    prefill: float | None = None
    other: float | None = None
    per_token: float | None = None
    first_token: float | None = None

    @property
    def parts(self) -> dict[str, float]:
        """The parts of the time to the first token that were measured, by name, in order."""
        found = {name: getattr(self, name) for name in PARTS}
        return {name: seconds for name, seconds in found.items() if seconds is not None}

    @property
    def largest(self) -> tuple[str, float] | None:
        """The part that takes most of the time to the first token, and its share; None if no time was measured."""
        if not self.parts or not self.first_token:
            return None
        name, seconds = max(self.parts.items(), key=lambda part: part[1])
        return name, seconds / self.first_token

    def answered(self, first_token: float, per_token: float | None) -> Times:
        """With what ``generate()`` took: the rest is what none of the model's parts account for.

        Args:
            first_token: seconds from the call of ``generate()`` to the first new token.
            per_token: seconds of every further one.
        """
        inside = sum(seconds for seconds in (self.tower, self.projector, self.prefill) if seconds is not None)
        around = sum(seconds for seconds in (self.decode, self.processor) if seconds is not None)
        other = max(0.0, first_token - inside)
        return replace(self, other=other, per_token=per_token, first_token=around + inside + other)

    def plus(self, other: Times) -> Times:
        """The sums of two; None where neither was measured."""
        pairs = {field.name: (getattr(self, field.name), getattr(other, field.name)) for field in fields(self)}
        return Times(
            **{
                name: sum(filter(None, own)) if any(one is not None for one in own) else None
                for name, own in pairs.items()
            }
        )

    @classmethod
    def median(cls, several: Sequence[Times]) -> Times:
        """The medians over several runs; None where one of them was not measured."""
        columns = {field.name: [getattr(one, field.name) for one in several] for field in fields(cls)}
        return cls(**{name: None if None in own else statistics.median(own) for name, own in columns.items()})

    def as_dict(self) -> dict[str, float | None]:
        """Plain numbers, for JSON."""
        return asdict(self)


PARTS = tuple(field.name for field in fields(Times) if field.name not in ("per_token", "first_token"))
"""The parts of the time to the first token, in order."""


@dataclass(frozen=True)
class Encoding:
    """One call of a model's vision encoder, without its pixels.

    Attributes:
        kind: what was encoded.
        arguments: of ``get_video_features()`` or ``get_image_features()``; floating-point tensors are on the meta
            device.
    """

    kind: Kind
    arguments: Mapping[str, Any]


class Meter:
    """Splits what grows while a program runs (seconds, operations) among the parts that run.

    A part inside another one counts for itself alone.

    Args:
        read: what has grown so far.
    """

    def __init__(self, read: Callable[[], float]) -> None:
        self._read = read
        self._open: list[str] = []
        self._mark = 0.0
        self.totals: dict[str, float] = {}

    def enter(self, part: str) -> None:
        """A part begins."""
        self._count()
        self._open.append(part)

    def leave(self, part: str) -> None:
        """A part ends, and what began in it and was interrupted; nothing if it is not running."""
        self._count()
        while self.running(part):
            if self._open.pop() == part:
                break

    def running(self, part: str) -> bool:
        """Whether a part has begun and not ended."""
        return part in self._open

    def _count(self) -> None:
        now = self._read()
        if self._open:
            part = self._open[-1]
            self.totals[part] = self.totals.get(part, 0.0) + now - self._mark
        self._mark = now


class Clock:
    """What the prefills of a model took, as :func:`timed` measures it.

    What was encoded since the prefill before counts for the next one. Each thread has its own latest prefill; one
    without is told of the latest of all, as with a streamer beside ``generate()``.

    Args:
        devices: that are waited for before the time is read.
        read: the time, in seconds.
    """

    def __init__(self, devices: Iterable[torch.device], read: Callable[[], float] = time.perf_counter) -> None:
        self._devices, self._read_time = [device for device in devices if device.type not in ("cpu", "meta")], read
        self._own = threading.local()
        self._latest: tuple[Times, tuple[Encoding, ...]] | None = None
        self.total = Times()
        """Of all prefills so far: ``tower``, ``projector`` and ``prefill``."""

    @property
    def times(self) -> Times | None:
        """Of the latest prefill: ``tower``, ``projector`` and ``prefill``; None before one."""
        found = getattr(self._own, "latest", self._latest)
        return None if found is None else found[0]

    @property
    def encodings(self) -> tuple[Encoding, ...]:
        """What was encoded for the latest prefill."""
        found = getattr(self._own, "latest", self._latest)
        return () if found is None else found[1]

    @property
    def meter(self) -> Meter:
        """Of what goes on in this thread since its latest prefill."""
        if not hasattr(self._own, "meter"):
            self._own.meter, self._own.encodings = Meter(self._read), []
        return self._own.meter

    def encoding(self, kind: Kind, arguments: Mapping[str, Any]) -> None:
        """A call of the encoder begins."""
        if self.meter.running(PREFILL):
            self.forget()  # Ctrl-C runs no hook
        outermost = not self.meter.running(TOWER)
        self.meter.enter(TOWER)
        if outermost:
            # Some models encode a video as images.
            self._own.encodings.append(Encoding(kind, {name: _shape(value) for name, value in arguments.items()}))

    def follows_encoding(self) -> bool:
        """Whether something was encoded since the latest prefill of this thread."""
        return TOWER in self.meter.totals

    def publish(self, *, split: bool) -> None:
        """The prefill has ended; ``split`` tells whether the projector is known."""
        totals = self.meter.totals
        known = split and TOWER in totals
        times = Times(
            tower=totals[TOWER] if known else None,
            projector=totals.get(PROJECTOR, 0.0) if known else None,
            prefill=totals[PREFILL],
        )
        self._own.latest = self._latest = times, tuple(self._own.encodings)
        self.total = self.total.plus(times)
        del self._own.meter, self._own.encodings

    def forget(self) -> None:
        """What was under way has failed."""
        self._own.__dict__.pop("meter", None)
        self._own.__dict__.pop("encodings", None)

    def _read(self) -> float:
        for device in self._devices:
            torch.accelerator.synchronize(device)
        return self._read_time()


def clock_of(model: Any, read: Callable[[], float] = time.perf_counter) -> Clock:
    """A clock for the devices of a model."""
    return Clock({parameter.device for parameter in unwrapped(model).parameters()}, read)


@contextmanager
def timed(model: Any, read: Callable[[], float] = time.perf_counter) -> Iterator[Clock]:
    """Measure the prefills of a model inside the block.

    Args:
        model: a supported model, bare or inside what PEFT or ``torch.compile`` put around it. Compiled code is not
            measured.
        read: the time in seconds, such as :func:`time.process_time` for that of the CPU. Default: of the wall clock.

    Raises:
        UnsupportedModelError: the model is of no supported family.
    """
    clock = clock_of(model, read)
    undo: list[Callable[[], None]] = []
    try:
        undo.extend(install(model, clock))
        yield clock
    finally:
        while undo:
            undo.pop()()


def install(model: Any, clock: Clock) -> Iterator[Callable[[], None]]:
    """Let a clock run with a model; gives the functions that undo it."""
    multimodal = unwrapped(model).base_model
    modules = projectors(multimodal)
    for kind in get_args(Kind):
        yield methods.replace(multimodal, f"get_{kind}_features", partial(_encoding, clock, kind))
    for module in modules:
        yield from metered(module, PROJECTOR, lambda: clock.meter)
    decoder = decoder_of(multimodal)
    # Before the hooks of a reduction, whose time is part of the prefill's.
    yield decoder.register_forward_pre_hook(partial(_enter_decoder, clock), with_kwargs=True, prepend=True).remove
    leave = partial(_leave_decoder, clock, bool(modules))
    yield decoder.register_forward_hook(leave, with_kwargs=True, always_call=True).remove


def projectors(multimodal: Any) -> list[nn.Module]:
    """The modules between vision tower and decoder; none for a family that nobody has told about.

    Args:
        multimodal: the model without its head.
    """
    found: list[nn.Module] = []
    for path in find(multimodal).projector:
        module: Any = multimodal
        for name in path.split("."):
            module = getattr(module, name, None)
        # A list of modules is never called itself.
        found += list(module) if isinstance(module, nn.ModuleList) else [] if module is None else [module]
    return list(dict.fromkeys(found))


def metered(module: nn.Module, part: str, meter: Callable[[], Meter]) -> Iterator[Callable[[], None]]:
    """Count a module as a part of a meter; gives the functions that undo it."""

    @graphs.inlined_only
    def enter(module: nn.Module, args: Any) -> None:
        if not torch.compiler.is_compiling():
            meter().enter(part)

    @graphs.inlined_only
    def leave(module: nn.Module, args: Any, output: Any) -> None:
        if not torch.compiler.is_compiling():
            meter().leave(part)

    yield module.register_forward_pre_hook(enter).remove
    yield module.register_forward_hook(leave, always_call=True).remove


def _encoding(clock: Clock, kind: Kind, encode: Callable[..., Any]) -> Callable[..., Any]:
    signature = inspect.signature(encode)

    def features(*args: Any, **kwargs: Any) -> Any:
        if torch.compiler.is_compiling():
            return encode(*args, **kwargs)
        bound = signature.bind_partial(*args, **kwargs).arguments
        more = bound.pop("kwargs", {})
        clock.encoding(kind, {**bound, **more})
        try:
            output = encode(*args, **kwargs)
        except BaseException:
            clock.forget()
            raise
        clock.meter.leave(TOWER)
        return output

    return features


def _starts(clock: Clock, kwargs: Mapping[str, Any]) -> bool:
    """Whether a decoder is called for a prefill, be it of a text behind a prefix: not for a step, and not to check
    drafts behind one."""
    if torch.compiler.is_compiling() or kwargs["inputs_embeds"].shape[1] == 1:
        return False
    cache = cache_of(kwargs)
    if cache is None or clock.follows_encoding():
        return True
    prefix, length = caches.prefix_of(cache), int(cache.get_seq_length())
    return not length or (prefix is not None and length == prefix.length)


@graphs.inlined_only
def _enter_decoder(clock: Clock, module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
    if _starts(clock, kwargs):
        if clock.meter.running(PREFILL):
            clock.forget()
        clock.meter.enter(PREFILL)


@graphs.inlined_only
def _leave_decoder(clock: Clock, split: bool, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
    if torch.compiler.is_compiling() or kwargs["inputs_embeds"].shape[1] == 1:
        return
    if not clock.meter.running(PREFILL):
        return
    clock.meter.leave(PREFILL)
    extension = state.current().extension
    # A prefix ends the forward pass in its last layer.
    if output is None and (extension is None or extension.result is None):
        clock.forget()
    else:
        clock.publish(split=split)


def _shape(value: Any) -> Any:
    """A tensor without its values, unless they are sizes or grids, which decide what is computed."""
    if not isinstance(value, Tensor):
        return value
    return value.detach().to("meta" if value.is_floating_point() else "cpu")
