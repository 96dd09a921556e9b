"""A 7B-shaped Qwen2.5-VL in bfloat16: tower, prefill, first token, each further one, memory, and the stages' share.

The ideal of a plan is the time of prompts of text alone that are as long as its layers: the layers at each length as a
plain prompt of that length takes them. Nothing a reduction does is in it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import torch

import framefusion
from benchmarks.gpu import qwen
from benchmarks.gpu.bench import Bench
from benchmarks.gpu.record import Record
from framefusion import FrameFusion

PLANS: dict[str, FrameFusion | None] = {
    "all tokens": None,
    "default": FrameFusion(),
    "keep=0.2": FrameFusion(keep=0.2),
    "keep=0.1": FrameFusion(keep=0.1),
}

FROM_PIXELS = ("all tokens", "keep=0.2")
"""Plans whose first token is timed, tower included; what the others add to the tower is their prefill."""


@torch.no_grad()
def run(record: Record, bench: Bench) -> None:
    """Rows of each measure, for each length of video and each plan."""
    model, shape = qwen.build(bench), qwen.shape_of(bench)
    record.data["parameters"] = sum(weight.numel() for weight in model.parameters())
    for frames in shape.frames:
        measured = _Measured(record, bench, model, frames)
        for measure in (measured.tower, measured.prefill, measured.ideal, measured.memory, measured.tokens):
            with record.step(f"{frames} frames, {measure.__name__}"):
                measure()


class _Measured:
    """The measures of one video."""

    def __init__(self, record: Record, bench: Bench, model: Any, frames: int) -> None:
        self.record, self.bench, self.model, self.frames = record, bench, model, frames
        self.shape = qwen.shape_of(bench)
        self.video = qwen.frames_of(model, self.shape, frames)
        self.inputs = qwen.prompt(model, self.shape, self.video)
        self.encoded = qwen.encoded(model, self.inputs)
        self.lengths: dict[str, list[int]] = {}
        """Tokens of each layer of each plan."""

    def add(self, measure: str, plan: str, **values: Any) -> None:
        tokens = int((self.inputs["input_ids"] == qwen.VIDEO).sum())
        self.record.add(
            measure=measure, frames=self.frames, visual_tokens=tokens, dtype="bfloat16", plan=plan, **values
        )

    def attached(self, plan: str) -> Any:
        settings = PLANS[plan]
        return nullcontext() if settings is None else framefusion.attach(self.model, settings)

    def once(self, plan: str, inputs: dict[str, Any]) -> Any:
        with self.attached(plan):
            return self.model(**inputs, use_cache=True)

    def tower(self) -> None:
        """The time of the vision tower, which no plan changes."""
        times = self.bench.in_turns({"tower": partial(qwen.encode, self.model, self.video)}, 10)
        self.add("tower", "all tokens", **times["tower"])

    def prefill(self) -> None:
        """Prefills of the encoded video in turns, and the host's time of the stages, with nothing queued before."""
        times = self.bench.in_turns({plan: partial(self.once, plan, self.encoded) for plan in PLANS}, 10, seconds=8)
        full = times["all tokens"]["median"]
        for plan, settings in PLANS.items():
            with waiting_layers(self.model, self.bench), self.attached(plan) as run:
                self.model(**self.encoded, use_cache=True)
            found: dict[str, Any] = {"speed_up": round(full / times[plan]["median"], 3)}
            layers, text = len(self.model.get_decoder().layers), self.inputs["input_ids"].shape[1]
            self.lengths[plan] = [text] * layers
            if settings is not None:
                summary = run.summary()
                lost = summary.visual_tokens_before
                self.lengths[plan] = [text - lost + tokens for tokens in summary.tokens_per_layer]
                found["mean_share"] = round(summary.mean_share, 4)
                found["flops_share"] = round(1 - summary.flops_saved_share, 4)
                found["stages_milliseconds"] = round(summary.reduction_milliseconds, 3)
                found["stages_share_of_full"] = round(summary.reduction_milliseconds / full, 5)
            self.add("prefill", plan, tokens_per_layer=self.lengths[plan], **times[plan], **found)

    def ideal(self) -> None:
        """For each plan, what its lengths alone cost."""
        lengths = sorted({length for own in self.lengths.values() for length in own})
        prompts = {str(n): {"input_ids": qwen.words(self.model, n), "logits_to_keep": 1} for n in lengths}
        times = self.bench.in_turns(
            {name: partial(self.model, **own, use_cache=True) for name, own in prompts.items()}, 5
        )
        for plan, own in self.lengths.items():
            ideal = sum(times[str(length)]["median"] for length in own) / len(own)
            self.add("ideal", plan, median=round(ideal, 4), repeats=times[str(own[0])]["repeats"])

    def memory(self) -> None:
        """What a prefill allocates at most, its cache included."""
        for plan in PLANS:
            self.add("memory", plan, extra_bytes=self.bench.extra_bytes(partial(self.once, plan, self.encoded)))

    def tokens(self) -> None:
        """From pixels to the first token, and each further one with a cache that grows."""
        runs = {plan: partial(self.once, plan, self.inputs) for plan in FROM_PIXELS}
        times = self.bench.in_turns(runs, 3, warm_up=1)
        for plan in runs:
            self.add("first token", plan, **times[plan])
        for plan in PLANS:
            with self.attached(plan):
                out = self.model(**self.encoded, use_cache=True)
                token, steps = out.logits[:, -1].argmax(-1, keepdim=True), self.shape.tokens
                decode = partial(qwen.decode, self.model, out.past_key_values, token)
                decode(2)
                total = self.bench.milliseconds(partial(decode, steps))
            self.add("per token", plan, median=round(total / steps, 4), repeats=steps)


@contextmanager
def waiting_layers(model: Any, bench: Bench) -> Iterator[None]:
    """Every decoder layer waits for the device first, so that the host's time of a stage is its own alone."""
    layers = model.get_decoder().layers
    handles = [layer.register_forward_pre_hook(lambda *_: bench.synchronize()) for layer in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
