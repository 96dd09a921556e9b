"""The decoder's training: a packed forward pass, answers, and dense labels on the way."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from batches import ANSWER, PROMPT, Batch
from lessons import DENSE_SIZES, PARSE_SIZES
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, linear, rms_norm, silu
from vision import IGNORE

from framefusion.evaluation.needle.questions import SORTS

# (decoder layers passed, label, weight): the large thing of the scene first, then what needs it.
TARGETS = (
    (2, "scene_color", 0.2),
    (2, "scene_kind", 0.3),
    (3, "scene_color", 0.1),
    (3, "scene_kind", 0.2),
    (3, "ordinal", 0.3),
    (3, "direction", 0.3),
    (4, "previous_color", 0.3),
    (4, "previous_kind", 0.4),
    (4, "ordinal", 0.3),
    (4, "direction", 0.4),
    (3, "first", 0.5),
    (4, "first", 0.5),
)
PARSE_DEPTHS = (3, 4)
LOOKUP_LAYERS = (4, 5, 6, 7)
"""Layers whose first heads are rewarded for looking at the evidence; deeper ones are left alone."""
LOOKUP_HEADS = 2
COUNTING_LAYERS = 2
"""The first so many of them are rewarded in questions that count: attention that falls on what is counted alone
cannot tell one from four."""
READ_DEPTH = 4


class Readouts(nn.Module):
    """Readouts of hidden states; used in training, not part of the checkpoint."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.dense = nn.ModuleDict(
            {f"{name}_{depth}": nn.Linear(width, DENSE_SIZES[name]) for depth, name, _ in TARGETS}
        )
        self.gains = nn.ParameterDict({str(depth): torch.ones(width) for depth in {depth for depth, _, _ in TARGETS}})
        self.parse = nn.ModuleList(nn.Linear(width, sum(PARSE_SIZES)) for _ in PARSE_DEPTHS)

    def read_dense(self, states: dict[int, Tensor], labels: dict[str, Tensor]) -> tuple[Tensor, dict[str, float]]:
        """Weighted loss of the visual tokens' labels, and the share read right."""
        total, right = next(iter(states.values())).new_zeros(()), {}
        for depth, name, weight in TARGETS:
            normed = rms_norm(states[depth], states[depth].shape[-1:], self.gains[str(depth)], eps=1e-6)
            logits, target = self.dense[f"{name}_{depth}"](normed).flatten(0, 1), labels[name].flatten()
            total = total + weight * cross_entropy(logits, target, ignore_index=IGNORE)
            known = target != IGNORE
            right[f"{name}_{depth}"] = float((logits.detach().argmax(-1) == target)[known].float().mean())
        return total, right

    def read_parse(self, states: dict[int, Tensor], asked: Tensor) -> tuple[Tensor, float]:
        """Loss and accuracy of reading ``asked`` ``(V, Q, 4)`` where the answer begins."""
        total, right = next(iter(states.values())).new_zeros(()), []
        for depth, head in zip(PARSE_DEPTHS, self.parse, strict=True):
            logits = head(rms_norm(states[depth], states[depth].shape[-1:], eps=1e-6))
            for column, scores in enumerate(logits.split(PARSE_SIZES, dim=-1)):
                scores, target = scores.flatten(0, 1), asked[..., column].flatten()
                total = total + cross_entropy(scores, target, ignore_index=IGNORE)
                right.append((scores.detach().argmax(-1) == target)[target != IGNORE].float().mean())
        return total / len(PARSE_DEPTHS), float(torch.stack(right).mean())


@dataclass
class Passed:
    """What a forward pass leaves.

    ``logits`` ``(V, Q, 3, vocabulary)``; by depth the hidden ``visual`` states ``(V, K, D)`` and ``asking`` states
    ``(V, Q, D)``; the attention ``paid`` to the evidence ``(layers, V, heads, Q, 2)``.
    """

    logits: Tensor
    visual: dict[int, Tensor]
    asking: dict[int, Tensor]
    paid: Tensor


def rotate(states: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = states.chunk(2, dim=-1)
    return states * cos + torch.cat([-second, first], dim=-1) * sin


def layer_weights(layer: nn.Module) -> tuple[Tensor, ...]:
    """The weights of one decoder layer in the order of :func:`layer_step`."""
    attention, mlp = layer.self_attn, layer.mlp
    return (
        layer.input_layernorm.weight,
        attention.q_proj.weight,
        attention.q_proj.bias,
        attention.k_proj.weight,
        attention.k_proj.bias,
        attention.v_proj.weight,
        attention.v_proj.bias,
        attention.o_proj.weight,
        layer.post_attention_layernorm.weight,
        mlp.gate_proj.weight,
        mlp.up_proj.weight,
        mlp.down_proj.weight,
    )


def layer_step(
    states: Tensor,
    cos: Tensor,
    sin: Tensor,
    own: Tensor,
    evidence: Tensor,
    length: int,
    first: int,
    weights: tuple[Tensor, ...],
    half: torch.dtype = torch.bfloat16,
) -> tuple[Tensor, Tensor]:
    """One decoder layer over packed questions, with products in ``half``: the new states and the attention paid to the
    evidence. A pure function of its weights, so that one compilation serves all layers.
    """
    norm, qw, qb, kw, kb, vw, vb, ow, after, gate, up, down = weights
    size = states.shape[-1]
    head = cos.shape[-1]
    count, width = own.shape[2:4]
    scale = head**-0.5
    normed = rms_norm(states, (size,), norm, 1e-6).to(half)
    projected = linear(normed, torch.cat([qw * scale, kw, vw]).to(half), torch.cat([qb * scale, kb, vb]).to(half))
    query, key, value = projected.unflatten(-1, (3, size // head, head)).permute(2, 0, 3, 1, 4)
    query, key = rotate(query.float(), cos, sin).to(half), rotate(key.float(), cos, sin).to(half)
    before, behind, past = query[:, :, :length], query[:, :, length:], key[:, :, :length]
    causal = torch.ones(length, length, dtype=torch.bool).tril()
    seen = (before @ past.transpose(-1, -2)).masked_fill(~causal, float("-inf")).softmax(-1) @ value[:, :, :length]
    to_prefix = (behind @ past.transpose(-1, -2)).unflatten(2, (count, width))
    to_own = behind.unflatten(2, (count, width)) @ key[:, :, length:].unflatten(2, (count, width)).transpose(-1, -2)
    shares = torch.cat([to_prefix, to_own.masked_fill(~own, float("-inf"))], dim=-1).softmax(-1)
    answer = shares[..., :length].flatten(2, 3) @ value[:, :, :length]
    answer = answer + (shares[..., length:] @ value[:, :, length:].unflatten(2, (count, width))).flatten(2, 3)
    rows = shares[:, :LOOKUP_HEADS, :, PROMPT - 1 : PROMPT + 1, first : length - 1].float()
    paid = (rows * evidence[:, None, :, None]).sum(-1)
    joined = torch.cat([seen, answer], dim=2).transpose(1, 2).flatten(2)
    states = states + linear(joined, ow.to(half)).float()
    normed = rms_norm(states, (size,), after, 1e-6).to(half)
    gated, raised = linear(normed, torch.cat([gate, up]).to(half)).float().chunk(2, dim=-1)
    return states + linear((silu(gated) * raised).to(half), down.to(half)).float(), paid


compiled_step = torch.compile(layer_step, dynamic=False)


def forward(
    decoder: nn.Module,
    lm_head: nn.Module,
    prefix: Tensor,
    questions: Tensor,
    cos: Tensor,
    sin: Tensor,
    padding: Tensor,
    first: int,
    evidence: Tensor,
    *,
    step: Callable[..., tuple[Tensor, Tensor]] = layer_step,
) -> Passed:
    """Run the decoder over videos with several questions behind each, none of which sees another.

    Each question attends to the prefix and to itself, at positions that continue the prefix's, so it computes
    what it would compute alone.

    Args:
        decoder, lm_head: of the model; its layers' own weights are used.
        prefix: ``(V, P, D)`` embeddings up to the end of the video.
        questions: ``(V, Q, m, D)`` embeddings of the rest of the prompts and the answers.
        cos, sin: ``(V, P + Q·m, head_dim)`` rotary embedding.
        padding: ``(V, Q)`` padded tokens at the start of each question.
        first: index of the first visual token in the prefix; the last prefix token is none.
        evidence: ``(V, Q, K)`` bool, see :class:`~batches.Batch`.
        step: :func:`layer_step`, or its compiled form.
    """
    count, width = questions.shape[1:3]
    length = prefix.shape[1]
    states = torch.cat([prefix, questions.flatten(1, 2)], dim=1)
    cos, sin = cos[:, None].contiguous(), sin[:, None].contiguous()
    own = torch.ones(width, width, dtype=torch.bool).tril() & (torch.arange(width) >= padding[..., None, None])
    # A padded row sees itself, so that its softmax is finite; nobody reads it.
    own = (own | torch.eye(width, dtype=torch.bool))[:, None]
    visual: dict[int, Tensor] = {}
    asking: dict[int, Tensor] = {}
    paid = []
    for index, layer in enumerate(decoder.layers):
        states, seen = step(states, cos, sin, own, evidence, length, first, layer_weights(layer))
        if index in LOOKUP_LAYERS:
            paid.append(seen)
        if index < READ_DEPTH:
            visual[index + 1] = states[:, first : length - 1]
            asking[index + 1] = states[:, length:].unflatten(1, (count, width))[:, :, PROMPT - 1]
    last = states[:, length:].unflatten(1, (count, width))[:, :, PROMPT - 1 : PROMPT - 1 + ANSWER]
    return Passed(lm_head(decoder.norm(last)), visual, asking, torch.stack(paid))


def lookup_loss(paid: Tensor, answers: Tensor, evidence: Tensor, sorts: Tensor) -> tuple[Tensor, float]:
    """How little attention the answering rows pay to the evidence: the mean of −log of what falls on it."""
    two = answers[..., 2] != IGNORE
    known = evidence.any(-1)
    rows = torch.stack([known, known & two], dim=-1)
    counting = (sorts == SORTS.index("count"))[..., None] & (torch.arange(len(paid)) >= COUNTING_LAYERS)
    wanted = rows[..., None] & ~counting[:, :, None]
    loss = -(paid + 1e-4).log().permute(1, 3, 4, 0, 2)[wanted].mean()
    return loss, float((-loss.detach()).exp())


def losses(passed: Passed, readouts: Readouts, batch: Batch, *, guide: float = 1.0) -> tuple[Tensor, dict[str, float]]:
    """The whole loss of one step, and what to log. ``guide`` weighs everything but the answers."""
    answer = cross_entropy(passed.logits.flatten(0, 2), batch.answers.flatten(), ignore_index=IGNORE)
    dense, logged = readouts.read_dense(passed.visual, batch.dense)
    parsed, share = readouts.read_parse(passed.asking, batch.parse)
    lookup, looked = lookup_loss(passed.paid, batch.answers, batch.evidence, batch.parse[..., 0])
    wrong = (passed.logits.detach().argmax(-1) != batch.answers) & (batch.answers != IGNORE)
    said = (batch.answers != IGNORE).any(-1)
    right = float((~wrong.any(-1))[said].float().mean())
    total = 2 * answer + guide * (dense + 0.5 * parsed + lookup)
    values = {"answer": float(answer.detach()), "right": right, "parse": share, "lookup": looked}
    return total, values | logged
