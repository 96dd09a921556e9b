"""What goes on behind a prefix; that it equals the masked oracle is in the matrix."""

from __future__ import annotations

import copy
import gc
import weakref
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

import framefusion
from framefusion import FrameFusion
from framefusion.hf import forgetting, prefix
from framefusion.hf.prefix import Prefix
from tests.hf import models, oracle, parts
from tests.hf.case import FIRST_WORD, Case
from tests.hf.ways import ATTENTION, EXCLUDED, PLANS, STEPS, TOLERANCE, generate

ALL = FrameFusion(keep=1.0)
IN_PARTS = [name for name in models.BUILDERS if (name, "a video in parts") not in EXCLUDED]


def extended(case: Case, run: framefusion.Run, cuts: tuple[int, ...] = (0, 2, 5, 6)) -> Prefix:
    held: Prefix | None = None
    for first, end in pairwise(cuts):
        shown, columns = parts.part(case, first, end)
        held = run.extend(shown, held, columns=columns, continues=first > 0)
    assert held is not None
    return held


def answer(case: Case, held: Prefix, words: Tensor) -> Any:
    return generate(case, parts.behind(case, words, held.length), past_key_values=held.to_continue())


def words_of(case: Case) -> Tensor:
    inputs = parts.whole(case)
    return inputs["input_ids"][:, prefix.media_end(case.model, inputs) :]


@pytest.mark.parametrize("name", models.apart(IN_PARTS))
def test_all_tokens_in_parts_equal_one_prompt(name: str) -> None:
    case = models.build(name)
    with framefusion.attach(case.model, ALL) as run:
        expected = torch.stack(generate(case, parts.whole(case)).logits, 1)
        held = extended(case, run)
        assert held.fork == len(case.decoder.layers)
        got = torch.stack(answer(case, held, words_of(case)).logits, 1)
    torch.testing.assert_close(got, expected, atol=TOLERANCE, rtol=0)


@pytest.mark.covering(1)
@pytest.mark.parametrize("name", models.apart(IN_PARTS))
@pytest.mark.parametrize("plan", ["two stages", "before layer 0"])
def test_what_is_forgotten_is_seen_by_nothing_that_comes(name: str, plan: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case = models.build(name)
    inputs, words, forgotten = parts.whole(case), words_of(case), []

    def run(count: bool) -> tuple[Any, list[Any], Prefix]:
        # Columns that are counted anew are none of the oracle's.
        monkeypatch.setattr(forgetting, "window_of", prefix.window_of if count else lambda layer: 1)
        with framefusion.attach(case.model, PLANS[plan]) as attached:
            held = extended(case, attached, (0, 2, 5))
            visual = held.held.columns[held.held.visual]
            if not count:
                forgotten.append((held.length, visual[::3]))
            held = attached.forget(held, visual[::3])
            shown, columns = parts.part(case, 5, 6)
            held = attached.extend(shown, held, columns=columns, continues=True)
            return answer(case, held, words), attached.stages, held

    out, stages, plain = run(count=False)
    sequence = torch.cat([inputs["input_ids"], out.sequences[:, -STEPS:]], dim=1)
    got = torch.stack(out.logits, 1)
    expected = oracle.logits(case.model, inputs, stages, sequence, forgotten=forgotten)
    torch.testing.assert_close(got, expected, atol=TOLERANCE, rtol=0)
    again, _, counted = run(count=True)
    torch.testing.assert_close(torch.stack(again.logits, 1), got, atol=TOLERANCE, rtol=0)
    if not any(map(prefix.window_of, case.decoder.layers)):
        assert counted.length < plain.length


def test_a_prefix_stays_as_it_is() -> None:
    """States of linear attention are written in place, and must be a copy's."""
    case = models.build("qwen3_5")
    with framefusion.attach(case.model, FrameFusion()) as run:
        held = run.extend(parts.whole(case))
        before = copy.deepcopy([vars(layer) for layer in held.cache.layers])
        first = answer(case, held, words_of(case))
        second = answer(case, held, words_of(case))
        after = [vars(layer) for layer in held.cache.layers]
    assert torch.stack(first.logits).equal(torch.stack(second.logits))
    for one, other in zip(before, after, strict=True):
        for key, value in one.items():
            for mine, yours in zip(_tensors(value), _tensors(other[key]), strict=True):
                assert mine.equal(yours)


def _tensors(value: Any) -> list[Tensor]:
    values = value.values() if isinstance(value, dict) else [value]
    return [own for own in values if isinstance(own, Tensor)]


def test_beams_go_on_behind_a_prefix() -> None:
    case, words = models.build("qwen2_vl"), words_of(models.build("qwen2_vl"))
    options = {"num_beams": 3, "max_new_tokens": 4}
    with framefusion.attach(case.model, FrameFusion(keep={0: 0.5})) as run:
        expected = generate(case, parts.whole(case), **options).sequences
        held = run.extend(parts.whole(case))
        behind = parts.behind(case, words, held.length)
        got = generate(case, behind, past_key_values=held.to_continue(torch.ones(3, 5)), **options).sequences
    assert got[:, -4:].equal(expected[:, -4:])


def test_what_cannot_go_on_is_refused() -> None:
    case = models.build("qwen2_vl")
    inputs, words = parts.whole(case), words_of(case)
    with framefusion.attach(case.model, FrameFusion()) as run:
        with pytest.raises(ValueError, match="no visual token"):
            run.extend(case.inputs([[9]]))
        with pytest.raises(ValueError, match="columns 3 to 900 are not in a prompt of 64 tokens"):
            run.extend(inputs, columns=(3, 900))
        with pytest.raises(ValueError, match="one row"):
            run.extend(case.inputs([[3, (2, 3, 3), 4]] * 2))
        with pytest.raises(ValueError, match="can go on only behind a prefix"):
            run.extend(inputs, continues=True)
        held = run.extend(inputs)
        with pytest.raises(ValueError, match="one token follows the prefix"):
            generate(case, parts.behind(case, words[:, :1], held.length), past_key_values=held.to_continue())
        with pytest.raises(ValueError, match="came behind a prefix"):
            case.model(**inputs, past_key_values=held.to_continue())
        other = parts.part(case, 0, 2)[0]
        wide = case.inputs([[3, (2, 3, 4), 4]])
        small = run.extend(other)
        with pytest.raises(ValueError, match="cannot go on behind frames"):
            run.extend(wide, small, columns=(16, 28), continues=True)
    with pytest.raises(RuntimeError, match="detached"):
        run.extend(inputs)
    with framefusion.attach(case.model, FrameFusion(cost=0.5)), pytest.raises(RuntimeError, match="other settings"):
        answer(case, held, words)
    with pytest.raises(RuntimeError, match="while a reduction was attached"):
        answer(case, held, words)


def test_frames_of_one_canvas_do_not_go_on() -> None:
    case = models.build("minicpmv4_7")
    with framefusion.attach(case.model, FrameFusion()) as run:
        held = run.extend(parts.whole(case, 3))
        with pytest.raises(ValueError, match="so a video cannot go on"):
            run.extend(parts.whole(case), held, columns=(20, 40), continues=True)


def test_an_error_in_a_part_leaves_the_model_and_the_prefix() -> None:
    case = models.build("llava_onevision")
    with framefusion.attach(case.model, FrameFusion()) as run:
        held = run.extend(parts.whole(case))
        expected = answer(case, held, words_of(case)).sequences
        handle = case.decoder.layers[1].register_forward_pre_hook(_fail)
        with pytest.raises(KeyboardInterrupt):
            run.extend(parts.part(case, 0, 2)[0], held)
        handle.remove()
        assert answer(case, held, words_of(case)).sequences.equal(expected)
        assert generate(case, parts.whole(case)).sequences[:, -STEPS:].equal(expected[:, -STEPS:])


@pytest.mark.parametrize("settings", [FrameFusion(), ALL])
def test_what_is_replaced_is_freed_at_once(settings: FrameFusion) -> None:
    """Else a stream would hold many copies of its cache until the next collection."""
    case = models.build("llava_onevision")
    shown = [parts.part(case, first, end) for first, end in ((0, 2), (2, 5))]
    with framefusion.attach(case.model, settings) as run:
        gc.collect()
        gc.disable()
        try:
            held = run.extend(shown[0][0], columns=shown[0][1])
            before = weakref.ref(held)
            held = run.extend(shown[1][0], held, columns=shown[1][1], continues=True)
            assert before() is None
        finally:
            gc.enable()


def _fail(*_: Any) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("settings", "fork"),
    [
        (FrameFusion(), 3),
        (FrameFusion(cost=0.3, relevance="none"), 4),
        (ALL, 4),
        (FrameFusion(keep={0: 0.5, 2: 0.3}, relevance="last"), 2),
        (FrameFusion(keep={0: 0.5, 2: 0.5}, relevance="last"), 2),
        (FrameFusion(keep=0.3, relevance="similarity", selector="dpp"), 1),
        (FrameFusion(keep={0: 0.3}, relevance="similarity"), 0),
        (FrameFusion(keep={0: 0.5, 2: 0.3}, relevance="all-viewers"), 0),
        (FrameFusion(keep={0: 0.3}, relevance="last"), 4),
        (FrameFusion(cost=0.4, merge=True, **ATTENTION), 1),
    ],
)
def test_the_fork_is_where_the_question_first_counts(settings: FrameFusion, fork: int) -> None:
    assert settings.fork(4) == fork


def test_padding_between_is_taken_where_it_can_be() -> None:
    assert prefix.takes_padding(models.build("qwen2_vl").model)
    assert not prefix.takes_padding(models.build("gemma3").model)
    assert not prefix.takes_padding(models.build("qwen3_5").model)
    case = models.build("gemma3")
    with framefusion.attach(case.model, FrameFusion()) as run:
        held = run.extend(parts.whole(case))
        words = torch.full((2, 4), FIRST_WORD)
        mask = torch.tensor([[0, 1, 1, 1], [1, 1, 1, 1]])
        behind = parts.behind(case, words, held.length)
        behind["attention_mask"][:, held.length :] = mask
        with pytest.raises(ValueError, match="padding between would count in the windows"):
            generate(case, behind, past_key_values=held.to_continue(mask))
