"""The oracle: the plain model at full length, uncached, with the dropped tokens hidden from the deeper layers."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor

from framefusion.hf.decoder import attends, attention_of, decoder_of
from framefusion.reduction.held import Stage

RECURRENT = ("linear_attn", "conv", "mixer")
"""What layers call a module with a state, or one that maps each token for itself."""


@torch.no_grad()
def logits(
    model: Any,
    inputs: dict[str, Tensor],
    stages: Sequence[Stage],
    sequences: Tensor,
    *,
    parts: Sequence[tuple[int, int, Sequence[Stage]]] = (),
    forgotten: Sequence[tuple[int, Tensor]] = (),
    rotary: Sequence[Any] | None = None,
) -> Tensor:
    """Logits ``(B, steps, V)`` that predict each generated token, had the stages been applied by masking.

    Args:
        model: the plain model, nothing attached.
        inputs: of the prefill, left-padded or of one row.
        stages: what the reduction recorded of the whole prompt, behind those of its parts.
        sequences: ``(B, N + steps)``, the prompt and the generated tokens.
        parts: prefills of parts of the prompt: the first column, the one past the last, and the stages recorded there.
        forgotten: the column from which on, and the columns that no token sees any more from there on.
        rotary: per layer the rotary embeddings of all columns, instead of those that the model computes.
    """
    prompt = inputs["input_ids"].shape[1]
    steps = sequences.shape[1] - prompt
    full = {**inputs, "input_ids": sequences[:, :-1]}
    for name, fill in (
        ("attention_mask", 1),
        ("mm_token_type_ids", 0),
        ("moe_mm_token_type_ids", 0),
        ("token_type_ids", 0),
    ):
        if name in inputs:
            tail = inputs[name].new_full((len(sequences), steps - 1), fill)
            full[name] = torch.cat([inputs[name], tail], dim=1)
    length = prompt + steps - 1
    valid = full["attention_mask"].bool()
    full |= positions(model, full["attention_mask"])
    causal = torch.ones(length, length, dtype=torch.bool).tril()
    present = valid.clone()
    turns = [_Turn(*part) for part in (*parts, (0, prompt, stages))]
    deepstack = _DeepStack()
    handles = [decoder_of(model).register_forward_pre_hook(deepstack.take, with_kwargs=True)]

    def pre_hook(index: int) -> Any:
        def hook(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            hidden = args[0] if args else kwargs["hidden_states"]
            for turn in turns:
                if index in turn.by_layer:
                    # Where tokens have several states, (S, B, N, D), each of them merges by itself.
                    states = hidden if hidden.ndim == 4 else hidden[None]
                    merged = [turn.apply(turn.by_layer[index], own.clone(), present.clone()) for own in states]
                    hidden = merged[0][0] if hidden.ndim == 3 else torch.stack([own for own, _ in merged])
                    present[:] = merged[0][1]
                    deepstack.merge(turn.first, turn.by_layer[index])
            if rotary is not None and rotary[index] is not None:
                args, kwargs = args[:1], {**_named(module, args), **kwargs}
                kwargs["position_embeddings"] = _up_to(length, rotary[index])
            given = kwargs.get("attention_mask")
            own = causal if given is None or given.ndim != 4 else _as_bool(given[:, 0])
            visible = own & present[:, None, :]
            for first, end, _ in parts:
                # What is prefilled earlier sees nothing of what comes later, also where visual tokens look ahead.
                visible[:, first:end, end:] = False
            for begin, columns in forgotten:
                visible[:, begin:, columns] = False
            mask = torch.zeros(visible.shape, dtype=hidden.dtype).masked_fill(~visible, torch.finfo(hidden.dtype).min)
            kwargs = {**kwargs, "attention_mask": mask[:, None]}
            return ((hidden, *args[1:]), kwargs) if args else ((), {**kwargs, "hidden_states": hidden})

        return hook

    recurrent: list[Any] = []
    for index, layer in enumerate(decoder_of(model).layers):
        handles.append(layer.register_forward_pre_hook(pre_hook(index), with_kwargs=True))
        if not attends(layer):
            module = next(own for name, own in layer.named_children() if name in RECURRENT)
            module.forward = partial(_on_what_is_present, module.forward, present)
            recurrent.append(module)
    try:
        return model(**full, use_cache=False).logits[:, prompt - 1 :]
    finally:
        for module in recurrent:
            del module.forward
        for handle in handles:
            handle.remove()


def _on_what_is_present(forward: Callable[..., Tensor], present: Tensor, hidden_states: Tensor, **_: Any) -> Tensor:
    """A module with a recurrent state, which no mask hides a token from: run on the tokens of ``present`` ``(B, N)``
    alone, one sample after the other."""
    result = torch.zeros_like(hidden_states)
    for b, mine in enumerate(present):
        result[b, mine] = forward(hidden_states[b : b + 1, mine])[0]
    return result


def positions(model: Any, mask: Tensor) -> dict[str, Tensor]:
    """The positions that ``generate()`` gives the tokens of a padded batch, for a model whose attention goes by more of
    them than their distances; nothing for others."""
    attention = next((own for own in map(attention_of, decoder_of(model).layers) if own is not None), None)
    known = {} if attention is None else inspect.signature(type(attention).forward).parameters
    if "position_ids" not in known or known["position_ids"].default is not inspect.Parameter.empty:
        return {}
    return {"position_ids": (mask.long().cumsum(1) - 1).clamp_min(0)}


def _named(layer: Any, args: tuple[Any, ...]) -> dict[str, Any]:
    """The positional arguments of a layer behind its hidden states, by name."""
    names = list(inspect.signature(type(layer).forward).parameters)[2:]
    return dict(zip(names, args[1:], strict=False))


def _up_to(length: int, rotary: Any) -> Any:
    return rotary[..., :length, :] if isinstance(rotary, Tensor) else tuple(part[..., :length, :] for part in rotary)


def _as_bool(mask: Tensor) -> Tensor:
    return mask if mask.dtype == torch.bool else mask == 0


class _Turn:
    """The stages of one prefill, over the columns from ``first`` to before ``end`` of the conversation."""

    def __init__(self, first: int, end: int, stages: Sequence[Stage]) -> None:
        self.first, self.end = first, end
        self.by_layer = {stage.layer: stage for stage in stages}

    def apply(self, stage: Stage, hidden: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
        """Merged values written into ``hidden``, and into ``present`` what is still there."""
        first, end = self.first, self.end
        for b, kept in enumerate(stage.kept):
            previous = present[b, first:end].nonzero().squeeze(-1)
            if stage.merged_into is not None:
                for target in kept.tolist():
                    group = previous[stage.merged_into[b][previous] == target]
                    if len(group) > 1:
                        hidden[b, first + target] = hidden[b, first + group].float().mean(0).to(hidden.dtype)
            present[b, first:end] = False
            present[b, first + kept] = True
        return hidden, present


class _DeepStack:
    """The features that a model adds after its first layers; a merged token's are the mean of its members'."""

    def __init__(self) -> None:
        self.given: list[Tensor] = []
        """What the model adds, read after each layer: ``(M, D)`` a layer."""
        self.original: list[Tensor] = []
        """``(B, N, D)`` a layer, before any merge."""
        self.merged: list[Tensor] = []
        """The same, as the stages so far leave them."""

    def take(self, module: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """Pre-hook of the decoder: hand the model a list that changes with the stages."""
        if kwargs.get("deepstack_visual_embeds") is None:
            return None
        self.visual = kwargs["visual_pos_masks"]
        self.given = list(kwargs["deepstack_visual_embeds"])
        for features in self.given:
            rows = torch.zeros(*self.visual.shape, features.shape[1], dtype=features.dtype)
            rows[self.visual] = features
            self.original.append(rows)
        self.merged = [rows.clone() for rows in self.original]
        return args, {**kwargs, "deepstack_visual_embeds": self.given}

    def merge(self, first: int, stage: Stage) -> None:
        """Follow the merges up to this stage, of a prefill that began at column ``first``."""
        for index, (original, merged) in enumerate(zip(self.original, self.merged, strict=True)):
            for b, into in enumerate(stage.merged_into or []):
                for target in stage.kept[b].tolist():
                    members = first + (into == target).nonzero().squeeze(-1)
                    if len(members) > 1:
                        merged[b, first + target] = original[b, members].float().mean(0).to(merged.dtype)
            self.given[index] = merged[self.visual]


@contextmanager
def recorded_rotary(model: Any) -> Iterator[list[Any]]:
    """The rotary embeddings that each layer is called with, over all forward passes, None where it gets none; enter
    before attaching."""
    layers = decoder_of(model).layers
    seen: list[list[Any]] = [[] for _ in layers]
    result: list[Any] = []

    def hook(index: int) -> Any:
        def pre_hook(module: Any, args: Any, kwargs: dict[str, Any]) -> None:
            seen[index].append({**_named(module, args), **kwargs}.get("position_embeddings"))

        return pre_hook

    handles = [layer.register_forward_pre_hook(hook(i), with_kwargs=True) for i, layer in enumerate(layers)]
    try:
        yield result
    finally:
        for handle in handles:
            handle.remove()
        result += [_joined(calls) for calls in seen]


def _joined(calls: list[Any]) -> Any:
    if calls[0] is None:
        return None
    if isinstance(calls[0], Tensor):
        return torch.cat(calls, dim=-2)
    return tuple(torch.cat(parts, dim=-2) for parts in zip(*calls, strict=True))
