"""The training objective: answers behind one video, and dense labels of the visual tokens on the way."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from batches import MAX_SCENES, NO_COLOR, NO_KIND, Batch
from checkpoint import TOKENS_PER_FRAME
from packing import IGNORE, PREFIX_PAIR, PromptIds, packed_mask
from questions import PARSE_SIZES
from torch import nn
from torch.nn.functional import cross_entropy, linear, rms_norm
from transformers import LlavaOnevisionForConditionalGeneration
from transformers.models.qwen2.modeling_qwen2 import apply_rotary_pos_emb

_SIZES = {
    "color": NO_COLOR + 1,
    "kind": NO_KIND + 1,
    "scene_color": NO_COLOR,
    "scene_kind": NO_KIND,
    "previous_color": NO_COLOR + 1,
    "previous_kind": NO_KIND + 1,
    "ordinal": MAX_SCENES,
}
# (decoder layers passed, label, weight). What lies under a token is asked of the vision side alone; the
# object of the scene after one layer; the scene before, which "after" and "before" questions need, from
# layer 2 on, so that the last layers only have to look it up.
_TARGETS = (
    (0, "color", 0.5),
    (0, "kind", 1.0),
    (1, "scene_color", 0.3),
    (1, "scene_kind", 0.3),
    (2, "scene_color", 0.2),
    (2, "scene_kind", 0.2),
    (2, "previous_color", 0.5),
    (2, "previous_kind", 0.5),
    (2, "ordinal", 0.5),
    (3, "previous_color", 0.3),
    (3, "previous_kind", 0.3),
    (3, "ordinal", 0.3),
)

_LOOKUP_LAYERS = (2, 3)
_LOOKUP_HEADS = 2
_PARSE_LAYERS = (1, 2)
LOOKUP, ASKING = -1, -2


class AuxiliaryHeads(nn.Module):
    """Readouts of the visual tokens' hidden states; used in training, not part of the checkpoint."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        vision = [name for layer, name, _ in _TARGETS if layer == 0]
        deeper = [(layer, name) for layer, name, _ in _TARGETS if layer > 0]
        self.heads = nn.ModuleDict({f"{name}_{layer}": nn.Linear(hidden_size, _SIZES[name]) for layer, name in deeper})
        self.norms = nn.ModuleDict(
            {str(layer): nn.RMSNorm(hidden_size, eps=1e-6) for layer in sorted({layer for layer, _ in deeper})}
        )
        # Which word a question turns on must reach the answering position before anything can be looked up.
        self.parse = nn.ModuleList(nn.Linear(hidden_size, sum(PARSE_SIZES)) for _ in _PARSE_LAYERS)
        # The vision side is read along fixed orthonormal directions: a free readout could amplify the faint
        # traces of an object's kind, but the decoder's first layer would then have to find them again.
        basis = torch.empty(sum(_SIZES[name] for name in vision), hidden_size)
        nn.init.orthogonal_(basis)
        for name, rows in zip(vision, basis.split([_SIZES[name] for name in vision]), strict=True):
            self.register_buffer(f"directions_{name}", rows.clone())

    def parse_loss(self, states: torch.Tensor, asked: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Loss and accuracy of reading ``asked`` ``(R, 4)`` from the answering rows ``(layers, R, D)``."""
        total, right = states.new_zeros(()), []
        for layer, head in zip(states, self.parse, strict=True):
            logits = head(rms_norm(layer, layer.shape[-1:], eps=1e-6)).split(PARSE_SIZES, dim=-1)
            for column, scores in enumerate(logits):
                total = total + cross_entropy(scores, asked[:, column])
                right.append((scores.argmax(-1) == asked[:, column]).float().mean())
        return total / len(states), torch.stack(right).mean()

    def _logits(self, layer: int, name: str, states: torch.Tensor) -> torch.Tensor:
        if layer == 0:
            normed = rms_norm(states, states.shape[-1:], eps=1e-6)
            return (normed @ getattr(self, f"directions_{name}").T).flatten(0, 1)
        return self.heads[f"{name}_{layer}"](self.norms[str(layer)](states)).flatten(0, 1)

    def forward(
        self, hidden: dict[int, torch.Tensor], batch: Batch
    ) -> tuple[torch.Tensor, dict[str, tuple[torch.Tensor, torch.Tensor]]]:
        """Weighted loss, and per readout its loss and accuracy.

        ``hidden[0]`` is ``(B, visual tokens, D)``, all others ``(B, kept tokens, D)``.
        """
        total = next(iter(hidden.values())).new_zeros(())
        parts = {}
        for layer, name, weight in _TARGETS:
            if layer not in hidden:
                continue
            labels = batch.vision_labels if layer == 0 else batch.labels
            logits = self._logits(layer, name, hidden[layer])
            loss, accuracy = _readout_loss(logits, getattr(labels, name).flatten(), balanced=layer == 0)
            total = total + weight * loss
            parts[f"{name}_{layer}"] = (loss.detach(), accuracy)
        return total, parts


def _readout_loss(logits: torch.Tensor, target: torch.Tensor, *, balanced: bool) -> tuple[torch.Tensor, torch.Tensor]:
    asked = target != IGNORE
    counted = asked & (target != logits.shape[-1] - 1) if balanced else asked
    accuracy = (logits.argmax(-1) == target)[counted].float().mean()
    if not balanced:
        return cross_entropy(logits[asked], target[asked]), accuracy
    # One token in ten shows an object; background would drown it.
    background = asked & ~counted
    loss = cross_entropy(logits[counted], target[counted])
    return loss + 0.3 * cross_entropy(logits[background], target[background]), accuracy


@dataclass
class Losses:
    total: torch.Tensor
    answer: torch.Tensor | None
    readouts: dict[str, tuple[torch.Tensor, torch.Tensor]]


def answer_logits(
    model: LlavaOnevisionForConditionalGeneration,
    prompts: PromptIds,
    batch: Batch,
    *,
    layers: tuple[int, ...] = (),
) -> tuple[torch.Tensor, dict[int, torch.Tensor]]:
    """Logits of every text position of a packed batch ``(B, M, vocabulary)``, and visual hidden states.

    The video goes through the class's own tower, projector, pooling and newline; the decoder gets the kept
    visual tokens at their original positions, and the packed 4D mask. ``layers`` lists the depths whose
    visual hidden states are returned.
    """
    text = batch.text
    assert text is not None
    core = model.model
    count, frames = batch.pixels.shape[:2]
    visual = frames * TOKENS_PER_FRAME
    with torch.set_grad_enabled(torch.is_grad_enabled() and batch.vision):
        features = core.get_video_features(batch.pixels, return_dict=True).pooler_output
    kept = batch.kept[..., None].expand(-1, -1, features.shape[-1])
    prefix_ids = torch.tensor(prompts.prefix(visual))
    start = len(prefix_ids) - visual - 1
    embed = core.get_input_embeddings()
    opening = embed(prefix_ids[:start]).expand(count, -1, -1)
    embeds = torch.cat([opening, features.gather(1, kept), features[:, -1:], embed(text.ids)], dim=1)
    positions = torch.cat(
        [
            torch.arange(start).expand(count, -1),
            batch.kept + start,
            text.offset.new_full((count, 1), start + visual),
            text.offset + len(prefix_ids),
        ],
        dim=1,
    )
    length = embeds.shape[1] - text.ids.shape[1]
    pair = torch.cat([text.pair.new_full((count, length), PREFIX_PAIR), text.pair], dim=1)
    mask = packed_mask(pair)
    output = core.language_model(
        inputs_embeds=embeds,
        attention_mask=mask,
        position_ids=positions,
        use_cache=False,
        output_hidden_states=bool(layers),
    )
    hidden = {layer: output.hidden_states[layer][:, start : length - 1] for layer in layers if layer > 0}
    if 0 in layers:
        hidden[0] = features[:, :-1]
    if layers:
        asking = text.scene >= 0
        hidden[ASKING] = torch.stack([output.hidden_states[i][:, length:][asking] for i in _PARSE_LAYERS])
        inputs = {layer: output.hidden_states[layer] for layer in _LOOKUP_LAYERS}
        hidden |= {LOOKUP: _lookup_loss(core.language_model, inputs, positions, mask, batch, start)}
    return model.lm_head(output.last_hidden_state[:, length:]), hidden


def _lookup_loss(
    decoder: nn.Module,
    inputs: dict[int, torch.Tensor],
    positions: torch.Tensor,
    mask: torch.Tensor,
    batch: Batch,
    start: int,
) -> torch.Tensor:
    """How little attention the answering positions pay to the scene that holds their answer.

    For the first two heads of the last two layers: the mean of −log of the attention that falls on the
    scene's visual tokens, computed with the layers' own weights for the answering rows only. Left to the
    answers alone, the decoder finds out one word after the other which tokens a word refers to.
    """
    text, total = batch.text, inputs[_LOOKUP_LAYERS[0]].new_zeros(())
    assert text is not None
    length = positions.shape[1] - text.ids.shape[1]
    wanted = text.scene[:, :, None] == batch.labels.ordinal[:, None, :]
    sample, row = (wanted.any(-1) & (text.scene >= 0)).nonzero(as_tuple=True)
    wanted = wanted[sample, row]
    cos, sin = decoder.rotary_emb(inputs[_LOOKUP_LAYERS[0]], positions)
    for index, states in inputs.items():
        layer = decoder.layers[index]
        attention, width = layer.self_attn, _LOOKUP_HEADS * layer.self_attn.head_dim
        normed = layer.input_layernorm(states)
        query = linear(
            normed[sample, row + length], attention.q_proj.weight[:width], attention.q_proj.bias[:width]
        ).unflatten(-1, (_LOOKUP_HEADS, -1))
        key = linear(normed, attention.k_proj.weight[:width], attention.k_proj.bias[:width])
        key = key.unflatten(-1, (_LOOKUP_HEADS, -1))
        query, _ = apply_rotary_pos_emb(query, query, cos[sample, row + length], sin[sample, row + length])
        key, _ = apply_rotary_pos_emb(key, key, cos, sin, unsqueeze_dim=2)
        scores = torch.einsum("rhd,rnhd->rhn", query, key[sample]) * attention.scaling
        paid = (scores + mask[sample, :, row + length]).softmax(-1)[:, :, start : length - 1]
        total = total - (paid * wanted[:, None]).sum(-1).add(1e-6).log().mean()
    return total / len(inputs)


def training_losses(
    model: LlavaOnevisionForConditionalGeneration, heads: AuxiliaryHeads, prompts: PromptIds, batch: Batch
) -> Losses:
    """All losses of one step. Batches without text train the vision side on its dense labels alone."""
    if batch.text is None:
        features = model.model.get_video_features(batch.pixels, return_dict=True).pooler_output
        total, readouts = heads({0: features[:, :-1]}, batch)
        return Losses(total, None, readouts)
    logits, hidden = answer_logits(model, prompts, batch, layers=(0, 1, 2, 3) if batch.vision else (1, 2, 3))
    answer = cross_entropy(logits.flatten(0, 1), batch.text.labels.flatten(), ignore_index=IGNORE)
    lookup = hidden.pop(LOOKUP)
    asked = batch.text.parse[batch.text.scene >= 0]
    parsed, share = heads.parse_loss(hidden.pop(ASKING), asked)
    dense, readouts = heads(hidden, batch)
    readouts["parse"] = (parsed.detach(), share)
    readouts["lookup"] = (lookup.detach(), (-lookup.detach()).exp())
    return Losses(answer + dense + lookup + 0.5 * parsed, answer.detach(), readouts)
