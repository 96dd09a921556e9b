"""The oracle: the plain model at full length, uncached, with the dropped tokens hidden from the deeper layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from framefusion.reducer import Stage


@torch.no_grad()
def logits(model: Any, inputs: dict[str, Tensor], stages: Sequence[Stage], sequences: Tensor) -> Tensor:
    """Logits ``(B, steps, V)`` that predict each generated token, had the stages been applied by masking.

    Args:
        model: the plain model, nothing attached.
        inputs: of the prefill, left-padded or of one row.
        stages: what the reduction recorded.
        sequences: ``(B, N + steps)``, the prompt and the generated tokens.
    """
    prompt = inputs["input_ids"].shape[1]
    steps = sequences.shape[1] - prompt
    full = {**inputs, "input_ids": sequences[:, :-1]}
    for name, fill in (("attention_mask", 1), ("mm_token_type_ids", 0), ("token_type_ids", 0)):
        if name in inputs:
            tail = inputs[name].new_full((len(sequences), steps - 1), fill)
            full[name] = torch.cat([inputs[name], tail], dim=1)
    length = prompt + steps - 1
    valid = full["attention_mask"].bool()
    causal = torch.ones(length, length, dtype=torch.bool).tril()
    present = valid.clone()
    previous = [row[:prompt].nonzero().squeeze(-1) for row in valid]
    by_layer = {stage.layer: stage for stage in stages}
    handles = []

    def pre_hook(index: int) -> Any:
        def hook(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            hidden = args[0] if args else kwargs["hidden_states"]
            stage = by_layer.get(index)
            if stage is not None:
                hidden = hidden.clone()
                for b, kept in enumerate(stage.kept):
                    if stage.merged_into is not None:
                        for target in kept.tolist():
                            group = previous[b][stage.merged_into[b][previous[b]] == target]
                            if len(group) > 1:
                                hidden[b, target] = hidden[b, group].float().mean(0).to(hidden.dtype)
                    present[b, :prompt] = False
                    present[b, kept] = True
                    previous[b] = kept
            visible = causal & present[:, None, :]
            mask = torch.zeros(visible.shape, dtype=hidden.dtype).masked_fill(~visible, torch.finfo(hidden.dtype).min)
            kwargs = {**kwargs, "attention_mask": mask[:, None]}
            return ((hidden, *args[1:]), kwargs) if args else ((), {**kwargs, "hidden_states": hidden})

        return hook

    for index, layer in enumerate(model.get_decoder().layers):
        handles.append(layer.register_forward_pre_hook(pre_hook(index), with_kwargs=True))
    try:
        return model(**full, use_cache=False).logits[:, prompt - 1 :]
    finally:
        for handle in handles:
            handle.remove()
