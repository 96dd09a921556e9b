"""Families and selectors of one's own, added from outside the package."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import VipLlavaConfig, VipLlavaForConditionalGeneration

import framefusion
from framefusion import Call, Family, FrameFusion, UnsupportedModelError, VisualItem, VisualLayout
from framefusion.hf import families
from framefusion.reduction.layout import runs
from framefusion.reduction.selectors import NEED_RELEVANCE, SELECTORS
from framefusion.reduction.selectors.candidates import Candidates, Selected
from tests.hf import models
from tests.hf.case import IMAGE, TEXT, Case, Image, scenes
from tests.hf.prompts import PROMPTS
from tests.hf.ways import difference, greedy


class VipLlava(Family):
    """ViP-LLaVA, which the package does not support: one run of square images each."""

    name = "ViP-LLaVA"
    model_classes = ("VipLlavaForConditionalGeneration", "VipLlavaModel")
    placeholder = "image token; one run per image"
    verified = "the test of extensions"

    def layouts(self, model: Any, call: Call) -> list[VisualLayout]:
        assert call.input_ids is not None
        layouts = []
        for row in call.input_ids.cpu():
            found = runs(row == model.config.image_token_id)
            items = [VisualItem.run("image", (1, 1, end - first), first) for first, end in found]
            layouts.append(VisualLayout.of(items))
        return layouts


def tiny_llava() -> Case:
    torch.manual_seed(1)
    vision = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = VipLlavaConfig(
        text_config={"model_type": "llama", **TEXT},
        vision_config={"model_type": "clip_vision_model", "image_size": 24, "patch_size": 4, **vision},
        image_token_id=IMAGE,
        vision_feature_layers=[-1],
    )
    model = VipLlavaForConditionalGeneration(config).eval()
    return Case(
        "llava",
        model,
        lambda videos, images: {"pixel_values": scenes(len(images), 3, (24, 24), 5)},
        lambda part: [IMAGE] * 36,
        fixed_grid=(6, 6),
        takes=("image",),
    )


@pytest.fixture
def registered() -> Iterator[None]:
    framefusion.register_family(VipLlava())
    yield
    families.FAMILIES.pop()


def test_a_family_from_outside(registered: None) -> None:
    case = tiny_llava()
    inputs = case.inputs([[3, Image(6, 6), 5], [7, Image(6, 6), 1, Image(6, 6), 4]])
    with framefusion.attach(case.model, FrameFusion(keep={1: 0.4, 3: 0.2})) as run:
        said = greedy(case, inputs, run)
        assert run.tokens_per_layer == [108, 42, 42, 21]
    assert difference(case, inputs, said) <= 2e-4
    assert "ViP-LLaVA" in [row["name"] for row in families.table()]


def test_without_registration_it_is_refused() -> None:
    with pytest.raises(UnsupportedModelError, match="VipLlavaForConditionalGeneration is not supported"):
        framefusion.attach(tiny_llava().model)


def test_families_that_cannot_be_registered(registered: None) -> None:
    class Nameless(VipLlava):
        name = ""

    class Text(VipLlava):
        name, model_classes = "text", "SomeModel"  # type: ignore[assignment]

    class Other(VipLlava):
        name = "other"

    for family, error, message in (
        (VipLlava, TypeError, "got the class itself; pass an object of it"),
        ("llava", TypeError, "got str"),
        (Nameless(), TypeError, "family Nameless has no name"),
        (Text(), TypeError, "must be a tuple of class names"),
        (VipLlava(), ValueError, "the name 'ViP-LLaVA' is registered already by tests.test_extending"),
        (Other(), ValueError, "the class VipLlavaForConditionalGeneration is registered already"),
    ):
        with pytest.raises(error, match=message):
            framefusion.register_family(family)  # type: ignore[arg-type]
    assert families.FAMILIES[-1].name == "ViP-LLaVA"


def first_tokens(candidates: Candidates) -> Tensor:
    """The first tokens of each segment."""
    counts = candidates.budgets.items()
    return torch.cat([(candidates.segments == segment).nonzero().squeeze(-1)[:count] for segment, count in counts])


@pytest.fixture
def selector() -> Iterator[str]:
    framefusion.register_selector("first-tokens", first_tokens)
    yield "first-tokens"
    del SELECTORS["first-tokens"]


def test_a_selector_from_outside(selector: str) -> None:
    case = models.build("qwen2_5_vl")
    inputs = case.inputs(PROMPTS["ragged"](case))
    settings = FrameFusion(keep={1: 0.25}, selector=selector, segmentation="single")
    with framefusion.attach(case.model, settings) as run:
        said = greedy(case, inputs, run)
        columns = run.layout[0].columns
        assert set(columns[:14].tolist()) <= set(run.stages[0].kept[0].tolist())
        assert not set(columns[14:].tolist()) & set(run.stages[0].kept[0].tolist())
    assert difference(case, inputs, said) <= 2e-4


def test_selectors_that_cannot_be_registered(selector: str) -> None:
    with pytest.raises(ValueError, match="a selector named 'first-tokens' is registered already"):
        framefusion.register_selector(selector, first_tokens)
    with pytest.raises(ValueError, match="name must be an identifier"):
        framefusion.register_selector("two words", first_tokens)
    with pytest.raises(TypeError, match=r"select must be a function select\(candidates\), got int"):
        framefusion.register_selector("number", 3)  # type: ignore[arg-type]
    with pytest.raises(
        ValueError, match=r"selector must be one of 'dpp', 'dpp-once', 'topk', 'uniform', .*'first-tokens', got 'last'"
    ):
        FrameFusion(selector="last")


def test_a_selector_that_cannot_do_without_relevance() -> None:
    framefusion.register_selector("most-attended", first_tokens, needs_relevance=True)
    try:
        with pytest.raises(
            ValueError, match="selector='most-attended' ranks by attention in every stage; it needs another"
        ):
            FrameFusion(selector="most-attended", relevance="none")
        with pytest.raises(ValueError, match="selector='most-attended' ranks by attention, and no attention exists"):
            FrameFusion(selector="most-attended", relevance="last", keep={0: 0.5})
    finally:
        del SELECTORS["most-attended"]
        NEED_RELEVANCE.discard("most-attended")


@pytest.fixture
def merging_selector() -> Iterator[str]:
    """Keeps the first tokens of each segment; the others go into the token at the same place, every third nowhere."""

    def select(candidates: Candidates) -> Selected:
        kept = first_tokens(candidates).flip(0)
        everyone = torch.arange(len(candidates.segments))
        target = torch.where(everyone % 3 == 0, -1, kept[everyone % len(kept)])
        target[kept] = kept
        return Selected(kept, target)

    framefusion.register_selector("merging", select)
    yield "merging"
    del SELECTORS["merging"]


@pytest.mark.parametrize("keep", [{1: 0.25}, {0: 0.6, 2: 0.2}])
def test_a_selector_that_merges(merging_selector: str, keep: dict[int, float]) -> None:
    case = models.build("qwen2_5_vl")
    inputs = case.inputs(PROMPTS["ragged"](case))
    with framefusion.attach(case.model, FrameFusion(keep=keep, selector=merging_selector)) as run:
        said = greedy(case, inputs, run)
        [*_, last] = run.stages
        assert last.merged_into is not None
        assert any((into.bincount() > 1).any() for into in (m[m >= 0] for m in last.merged_into))
    assert difference(case, inputs, said) <= 2e-4


def kept_first(count: int, rest: int) -> Tensor:
    """A target for 54 tokens of which the first ones stay."""
    return torch.where(torch.arange(54) < count, torch.arange(54), rest)


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (lambda n: torch.zeros(n), r"returned torch.float32 \(13,\); it must return a one-dimensional int64"),
        (lambda n: list(range(n)), "returned list; it must"),
        (lambda n: torch.arange(n) + 50, "an index outside 0 … 53"),
        (lambda n: torch.arange(n - 1), "returned 12 distinct tokens of segment 0, asked for 13"),
        (lambda n: torch.zeros(n, dtype=torch.long), "returned 1 distinct tokens of segment 0, asked for 13"),
        (
            lambda n: Selected(torch.arange(n), torch.zeros(3, dtype=torch.long)),
            r"returned the target torch.int64 \(3,\); it must return None or a one-dimensional int64 tensor of 54",
        ),
        (
            lambda n: Selected(torch.arange(n), torch.zeros(54, dtype=torch.long)),
            r"returned target\[1\] = 0, but token 1 is kept; a kept token is its own target",
        ),
        (lambda n: Selected(torch.arange(n), torch.arange(54)), r"returned target\[13\] = 13, which is no kept token"),
        (lambda n: Selected(torch.arange(n), kept_first(n, 99)), r"returned target\[13\] = 99, which is no kept token"),
        (lambda n: Selected(torch.arange(n), kept_first(n, -2)), r"returned target\[13\] = -2, which is no kept token"),
        (
            lambda n: Selected(torch.arange(n), kept_first(n, 0), torch.zeros(n, 3)),
            r"returned features of torch.float32 \(13, 3\); they must be torch.float32 \(13, \d+\), one row for each",
        ),
        (lambda n: Selected(torch.arange(n), features=[0.0]), r"returned features of list; they must be"),  # type: ignore
    ],
)
def test_selectors_that_break_their_contract(returned: Any, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(candidates: Candidates) -> Any:
        return returned(candidates.total)

    monkeypatch.setitem(SELECTORS, "broken", broken)
    case = models.build("qwen2_5_vl")
    settings = FrameFusion(keep={1: 0.24}, selector="broken", segmentation="single")
    with (
        framefusion.attach(case.model, settings),
        pytest.raises(ValueError, match=f"selector 'broken' .*{message}|{message}"),
    ):
        case.model(**case.inputs(PROMPTS["single"](case)))
