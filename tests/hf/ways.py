"""Every way to generate, each checked against the masked oracle: one function and one line per way."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from transformers import StaticCache

import framefusion
from framefusion import FrameFusion
from framefusion.hf import prefix
from framefusion.reduction.held import Stage
from tests.hf import models, oracle, parts
from tests.hf.case import FIRST_WORD, Case
from tests.hf.conversation import Conversation
from tests.hf.prompts import PROMPTS

STEPS = 6
"""Generated tokens: the prefill's and five decoded ones."""


TOLERANCE = 2e-4
"""Of logits in float32."""


@dataclass
class Said:
    """What a way generated.

    Attributes:
        logits: ``(B, STEPS, V)``, or None if the way only tells scores.
        sequences: ``(B, N + STEPS)``.
        stages: of the prefill.
        scores: ``(B,)`` log probability of the generated tokens, or None.
    """

    logits: Tensor | None
    sequences: Tensor
    stages: Sequence[Stage]
    scores: Tensor | None = None


def generate(case: Case, inputs: dict[str, Any], **kwargs: Any) -> Any:
    """``generate()`` that only says words and tells the raw logits."""
    options: dict[str, Any] = {
        "do_sample": False,
        "max_new_tokens": STEPS,
        "suppress_tokens": list(range(FIRST_WORD)),
        "output_logits": True,
        "return_dict_in_generate": True,
        **kwargs,
    }
    with torch.no_grad():
        return case.model.generate(**inputs, **options)


def logits(case: Case, inputs: dict[str, Tensor]) -> Tensor:
    """Of one forward pass: ``(B, N, V)``, or less where a reduction is attached."""
    with torch.no_grad():
        return case.model(**inputs, **oracle.positions(case.model, inputs["attention_mask"])).logits


def _plain(case: Case, inputs: dict[str, Any], run: framefusion.Run, **kwargs: Any) -> Said:
    out = generate(case, inputs, **kwargs)
    return Said(torch.stack(out.logits, 1), out.sequences, run.stages)


def greedy(case: Case, inputs: dict[str, Any], run: framefusion.Run) -> Said:
    return _plain(case, inputs, run)


def sampling(case: Case, inputs: dict[str, Any], run: framefusion.Run) -> Said:
    torch.manual_seed(3)
    return _plain(case, inputs, run, do_sample=True, top_k=5)


def returned_sequences(case: Case, inputs: dict[str, Any], run: framefusion.Run) -> Said:
    torch.manual_seed(3)
    return _plain(case, inputs, run, do_sample=True, num_return_sequences=2)


def beams(case: Case, inputs: dict[str, Any], run: framefusion.Run) -> Said:
    out = generate(case, inputs, num_beams=3, num_return_sequences=2, length_penalty=0.0, output_scores=True)
    # The prefill saw three rows a sample, of which two come back.
    stages = [_rows(stage, [3 * (row // 2) for row in range(len(out.sequences))]) for stage in run.stages]
    return Said(None, out.sequences, stages, out.sequences_scores)


def prompt_lookup(case: Case, inputs: dict[str, Any], run: framefusion.Run) -> Said:
    return _plain(case, inputs, run, prompt_lookup_num_tokens=2)


def static_cache(case: Case, inputs: dict[str, Any], run: framefusion.Run) -> Said:
    return _plain(case, inputs, run, cache_implementation="static", disable_compile=True)


def assisted(case: Case, inputs: dict[str, Any], run: framefusion.Run) -> Said:
    """Another model drafts, without reduction."""
    return _plain(case, inputs, run, assistant_model=_assistant(case.name))


@lru_cache(maxsize=1)
def _assistant(name: str) -> Any:
    model = models.build(name).model
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))
    return model


def compiled_static_cache(case: Case, inputs: dict[str, Any], run: framefusion.Run) -> Said:
    """A loop whose decoding step is compiled as one full graph."""
    torch.compiler.reset()
    length = inputs["input_ids"].shape[1]
    cache = StaticCache(config=case.model.config.get_text_config(), max_cache_len=length + STEPS + 2)
    step = torch.compile(case.model.forward, fullgraph=True, backend="eager")
    return _loop(case, inputs, run, cache, step)


def manual(case: Case, inputs: dict[str, Any], run: framefusion.Run) -> Said:
    """A decoding loop without ``generate()``."""
    return _loop(case, inputs, run, None, None)


def _loop(case: Case, inputs: dict[str, Any], run: framefusion.Run, cache: Any, compiled: Any) -> Said:
    sequence, logits = inputs["input_ids"], []
    call, step = case.model, dict(inputs)
    for column in range(sequence.shape[1], sequence.shape[1] + STEPS):
        with torch.no_grad():
            out = call(**step, past_key_values=cache, use_cache=True)
        cache = out.past_key_values
        logits.append(out.logits[:, -1])
        token = logits[-1][:, FIRST_WORD:].argmax(-1, keepdim=True) + FIRST_WORD
        assert int(cache.get_seq_length()) == sequence.shape[1]
        sequence = torch.cat([sequence, token], dim=1)
        step = {"input_ids": token}
        if compiled is not None:
            call, deltas = compiled, getattr(case.model.base_model, "rope_deltas", None)
            # Left to itself, a model with M-RoPE asks the cache for a number, as generate() never lets it.
            step |= {} if deltas is None else {"position_ids": (column + deltas).expand(3, 1, 1)}
    return Said(torch.stack(logits, 1), sequence, run.stages)


def no_cache(case: Case, prompt: str, plan: FrameFusion) -> float:
    """Every step is a prefill of its own, with stages of its own."""
    inputs, stages, worst = case.inputs(PROMPTS[prompt](case)), [], 0.0
    with framefusion.attach(case.model, plan) as run:
        handle = case.model.register_forward_hook(lambda *_: stages.append(run.stages))
        out = generate(case, inputs, use_cache=False)
        handle.remove()
    length = inputs["input_ids"].shape[1]
    for step, (logits, own) in enumerate(zip(out.logits, stages, strict=True)):
        so_far: dict[str, Any] = {**inputs, "input_ids": out.sequences[:, : length + step]}
        ones = inputs["attention_mask"].new_ones(len(out.sequences), step)
        so_far["attention_mask"] = torch.cat([inputs["attention_mask"], ones], dim=1)
        so_far |= case.types(so_far["input_ids"])
        expected = oracle.logits(case.model, so_far, own, out.sequences[:, : length + step + 1])
        worst = max(worst, float((logits[:, None] - expected).abs().max()))
    return worst


def later_turn(case: Case, prompt: str, plan: FrameFusion) -> float:
    """A text turn and a new video in a later turn of one cache."""
    conversation = Conversation(case)
    with oracle.recorded_rotary(case.model) as rotary, framefusion.attach(case.model, plan) as run:
        logits, sequence, stages = conversation.run(run)
    prompt_length = conversation.whole["input_ids"].shape[1]
    turns = [(0, conversation.first, stages[0]), (conversation.second, prompt_length, stages[1])]
    expected = oracle.logits(case.model, conversation.whole, [], sequence, parts=turns, rotary=rotary)
    return float((logits - expected).abs().max())


def asked_again(case: Case, prompt: str, plan: FrameFusion) -> float:
    """Questions of two lengths behind a prefix that was prefilled with another one; in a batch where they may be."""
    inputs = case.inputs(PROMPTS[prompt](case))
    end = prefix.media_end(case.model, inputs)
    first, worst = inputs["input_ids"][:, end:], 0.0
    generator = torch.Generator().manual_seed(3)
    longer = torch.randint(FIRST_WORD, 64, (1, first.shape[1] + 3), generator=generator)
    asked = [first, longer]
    said = []
    with framefusion.attach(case.model, plan) as run:
        held = run.extend(inputs)
        alone = not prefix.takes_padding(case.model)
        for batch in [[own] for own in asked] if alone else [asked]:
            words, behind = _padded(batch)
            mask = torch.cat([torch.ones(len(batch), end, dtype=torch.long), behind], dim=1)
            arguments = {**parts.behind(case, words, end), "attention_mask": mask}
            out = generate(case, arguments, past_key_values=held.to_continue(behind))
            logits = torch.stack(out.logits, 1)
            for b, own in enumerate(batch):
                stages = [_without(_rows(stage, [b]), end, words.shape[1] - own.shape[1]) for stage in run.stages]
                said.append((own, logits[b : b + 1], out.sequences[b : b + 1, -STEPS:], stages))
    for own, logits, tokens, stages in said:
        ids = torch.cat([inputs["input_ids"][:, :end], own], dim=1)
        whole = {**inputs, "input_ids": ids, "attention_mask": torch.ones_like(ids), **case.types(ids)}
        expected = oracle.logits(case.model, whole, stages, torch.cat([ids, tokens], dim=1))
        worst = max(worst, float((logits - expected).abs().max()))
        # The oracle follows whatever stages there were; they have to be those of asking afresh.
        with framefusion.attach(case.model, plan) as run:
            generate(case, whole, max_new_tokens=1)
            afresh = run.stages
        assert [stage.layer for stage in stages] == [stage.layer for stage in afresh]
        assert all(one.kept[0].equal(other.kept[0]) for one, other in zip(stages, afresh, strict=True))
    return worst


def _padded(batch: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Rows padded on the left, and their mask."""
    longest = max(own.shape[1] for own in batch)
    pads = [longest - own.shape[1] for own in batch]
    words = [torch.nn.functional.pad(own, (pad, 0), value=FIRST_WORD) for own, pad in zip(batch, pads, strict=True)]
    mask = [(torch.arange(longest) >= pad).long()[None] for pad in pads]
    return torch.cat(words), torch.cat(mask)


def _without(stage: Stage, first: int, count: int) -> Stage:
    """A stage of one row without ``count`` columns of padding from ``first`` on."""

    def moved(columns: Tensor) -> Tensor:
        return torch.where(columns >= first + count, columns - count, columns)

    merged = stage.merged_into
    if merged is not None:
        merged = [moved(torch.cat([merged[0][:first], merged[0][first + count :]]))]
    return Stage(stage.layer, [moved(stage.kept[0])], merged, stage.milliseconds)


def in_parts(case: Case, prompt: str, plan: FrameFusion) -> float:
    """A video that goes on: every part is reduced by itself, the whole of it where the question counts."""
    inputs, held = parts.whole(case), None
    with framefusion.attach(case.model, plan) as run:
        for first, end in ((0, 2), (2, 5), (5, parts.FRAMES)):
            shown, columns = parts.part(case, first, end)
            held = run.extend(shown, held, columns=columns, continues=first > 0)
        words = inputs["input_ids"][:, held.length :]
        out = generate(case, parts.behind(case, words, held.length), past_key_values=held.to_continue())
        stages = run.stages
    sequence = torch.cat([inputs["input_ids"], out.sequences[:, -STEPS:]], dim=1)
    expected = oracle.logits(case.model, inputs, stages, sequence)
    return float((torch.stack(out.logits, 1) - expected).abs().max())


def _rows(stage: Stage, rows: Sequence[int]) -> Stage:
    """The same stage for some rows of the batch."""
    merged = None if stage.merged_into is None else [stage.merged_into[row] for row in rows]
    return Stage(stage.layer, [stage.kept[row] for row in rows], merged, stage.milliseconds)


def difference(case: Case, inputs: dict[str, Any], said: Said) -> float:
    """The largest difference between what a way said and the masked oracle."""
    batch, worst = len(inputs["input_ids"]), 0.0
    returned = len(said.sequences) // batch
    for turn in range(returned):
        rows = range(turn, len(said.sequences), returned)
        sequences = said.sequences[turn::returned]
        expected = oracle.logits(case.model, inputs, [_rows(stage, rows) for stage in said.stages], sequences)
        if said.logits is not None:
            worst = max(worst, float((said.logits[turn::returned] - expected).abs().max()))
        if said.scores is not None:
            scores = expected.log_softmax(-1).gather(-1, sequences[:, -STEPS:, None]).sum((1, 2))
            worst = max(worst, float((said.scores[turn::returned] - scores).abs().max()))
    return worst


Say = Callable[[Case, dict[str, Any], framefusion.Run], Said]
Check = Callable[[Case, str, FrameFusion], float]


def _checked(say: Say) -> Check:
    """The check of a way that says something behind one prefill."""

    def check(case: Case, prompt: str, plan: FrameFusion) -> float:
        inputs = case.inputs(PROMPTS[prompt](case))
        with framefusion.attach(case.model, plan) as run:
            said = say(case, inputs, run)
            assert run.tokens_per_layer[-1] < run.summary().visual_tokens_before
        assert said.sequences.shape[1] == inputs["input_ids"].shape[1] + STEPS
        return difference(case, inputs, said)

    return check


@dataclass
class Way:
    """A way to generate.

    Attributes:
        check: the largest difference from the oracle for a family, a prompt and a plan.
        prompts: those that it is checked with; transformers itself offers some ways for one row only.
    """

    check: Check
    prompts: tuple[str, ...] = ("ragged", "single")


COMPILED = "StaticCache, compiled step"

WAYS: dict[str, Way] = {
    "greedy": Way(_checked(greedy), ("ragged", "images", "single")),
    "sampling": Way(_checked(sampling)),
    "num_return_sequences": Way(_checked(returned_sequences)),
    "beams": Way(_checked(beams)),
    "assisted": Way(_checked(assisted), ("single",)),
    "prompt lookup": Way(_checked(prompt_lookup), ("single",)),
    "use_cache=False": Way(no_cache),
    "StaticCache": Way(_checked(static_cache)),
    COMPILED: Way(_checked(compiled_static_cache), ("single",)),
    "manual loop": Way(_checked(manual), ("single",)),
    "video in a later turn": Way(later_turn, ("single",)),
    "asked again on a prefix": Way(asked_again, ("single",)),
    "a video in parts": Way(in_parts, ("single",)),
}

ATTENTION: dict[str, Any] = {"relevance": "last", "relevance_exponent": 1.0, "dropped": "drop"}
"""What the last token attends to stays, the rest leaves no trace."""

PLANS: dict[str, FrameFusion] = {
    "two stages, merging": FrameFusion(dropped="merge", dropped_lower_bound=0.2),
    "merge, then prune": FrameFusion(cost=0.4, merge=True, similarity_lower_bound=0.8, **ATTENTION),
    "two stages": FrameFusion(keep={1: 0.5, 3: 0.15}, **ATTENTION),
    "before layer 0": FrameFusion(keep={0: 0.4, 2: 0.2}, **{**ATTENTION, "relevance": "text"}),
}

_STATES = "transformers refuses it for models with recurrent states, which no rejected draft can be taken out of"
_EXPANDED = "generate() does not expand the encoded video, whose placeholders are the image token's"

EXCLUDED: dict[tuple[str, str], str] = {
    **{
        (family, way): _STATES
        for family in ("qwen3_5", "qwen3_5_moe", "minicpmv4_6", "minicpmv4_7", "nemotron_h_omni")
        for way in ("assisted", "prompt lookup")
    },
    **{
        (family, way): _EXPANDED
        for family in ("glm4v", "glm46v", "glm4v_moe")
        for way in ("num_return_sequences", "beams")
    },
    **{
        ("llama4", way): "generate() expands another part of what is encoded than the one that the model reads"
        for way in ("num_return_sequences", "beams")
    },
    ("minicpmv4_7", "a video in parts"): "positions of its frames depend on how many there are in all",
    ("molmo2", "a video in parts"): "its frames attend to all that come behind them",
}
"""Ways that are not offered for a family, reduced or not: ``{(family, way): reason}``."""

ALONE: dict[tuple[str, str], str] = {
    (family, way): "generate() repeats what it has of the videos one by one, so rows with several get the wrong ones"
    for family in ("perception_lm", "nemotron_h_omni")
    for way in ("num_return_sequences", "beams")
}
"""Ways that transformers itself gets wrong for a family where a row has several videos: ``{(family, way): reason}``."""


def prompts_of(family: str, way: str) -> tuple[str, ...]:
    """The prompts that a way is checked with for a family."""
    return ("single",) if (family, way) in ALONE else WAYS[way].prompts
