from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from framefusion import FrameFusion
from framefusion.evaluation.methods import METHODS, BudgetError, Method
from framefusion.evaluation.methods.ablations import variant
from framefusion.evaluation.methods.method import one_stage
from framefusion.reduction.layout import VisualItem, VisualLayout
from framefusion.reduction.reducer import Reduction
from framefusion.reduction.segmentation import DySeg

BUDGETS = (0.5, 0.3, 0.2, 0.1, 0.05)
LAYERS = (12, 28)
AT_INPUT = {"uniform", "low-resolution", "divprune", "vidcom2", "fastvid", "fastvid-qwen"} | {
    "floc", "unicomp", "forestprune", "v-cast", "flashvid", "llava-scissor",
}  # fmt: skip
SPENDING = [method for method in METHODS.values() if method.budgeted and method.frames is None]


def planned(settings: FrameFusion, tokens: int, layers: int, similar: float = 0.0) -> list[int]:
    """Tokens per layer when a share ``similar`` of those present resembles the frame before."""
    plan, present, counts = settings.plan(tokens, layers), tokens, []
    for layer in range(layers):
        step = plan.step(layer, present, int(similar * present) if plan.wants_merges(layer) else 0)
        present = present - step.merge if step.keep is None else step.keep
        counts.append(present)
    return counts


def reached(method: Method, budget: float, layers: int) -> FrameFusion | BudgetError:
    """The settings, or why there are none."""
    try:
        return method.settings(budget, layers)
    except BudgetError as error:
        return error


@pytest.mark.parametrize("layers", LAYERS)
@pytest.mark.parametrize("budget", BUDGETS)
@pytest.mark.parametrize("method", SPENDING, ids=lambda method: method.name)
def test_the_plan_spends_the_budget(method: Method, budget: float, layers: int) -> None:
    settings = reached(method, budget, layers)
    if isinstance(settings, BudgetError):
        assert budget <= settings.smallest < 0.1
        assert method.settings(settings.smallest + 0.01, layers)
        return
    settings.check(layers)
    for tokens in (512, 2048, 6272):
        for similar in (0.0, 0.05, 0.9):
            spent = sum(planned(settings, tokens, layers, similar))
            assert abs(spent - budget * tokens * layers) <= layers
            assert spent <= 1.02 * budget * tokens * layers


def test_what_starts_too_deep_says_so() -> None:
    shallow = {"holitom", "pyramiddrop", "hieravid", "random", "evs", "cdpruner-input"}
    shallow |= {"segment-dpp-input", "segment-dpp-two-stage", "segment-dpp-pyramid"}
    for method in SPENDING:
        if ":" not in method.name and method.name not in shallow:
            if method.name in AT_INPUT:
                assert method.settings(0.05, 28)
            else:
                with pytest.raises(BudgetError, match=r"a budget of 0\.05 cannot be reached: the first"):
                    method.settings(0.05, 12)
    for name in shallow:
        assert METHODS[name].settings(0.05, 12)
    with pytest.raises(BudgetError, match=r"the first 2 layers of 28 run on every token\. Ask for more than 0\.0714"):
        METHODS["fastv"].settings(0.05, 28)


@pytest.mark.parametrize("method", SPENDING, ids=lambda method: method.name)
def test_a_prefill_spends_the_budget(method: Method) -> None:
    """With real selections: a video of two scenes, one of them still."""
    layers, budget, grid = 12, 0.3, (8, 4, 5)
    generator = torch.Generator().manual_seed(0)
    scenes = torch.randn(2, 20, 24, generator=generator).repeat_interleave(4, dim=0)
    noise = torch.tensor([0.1] * 4 + [1.0] * 4)[:, None, None]
    video = (scenes + noise * torch.randn(8, 20, 24, generator=generator)).flatten(0, 1)
    hidden = torch.randn(1, 170, 24, generator=generator)
    hidden[0, 4:164] = video
    layout = VisualLayout.of([VisualItem.run("video", grid, 4)])
    encoder = [torch.rand(160, generator=generator)]
    valid = torch.ones(1, 170, dtype=torch.bool)
    reduction = Reduction(method.settings(budget, layers), [layout], valid, layers, encoder=encoder)
    received = None
    for layer in range(layers):
        hidden = reduction.before_layer(layer, hidden, received)
        assert hidden.isfinite().all()
        received = torch.rand(hidden.shape[:2], generator=generator)
    assert sum(reduction.visual_per_layer) == pytest.approx(budget * 160 * layers, abs=layers)


def test_every_budget_is_left_alone_by_what_has_none() -> None:
    for name in ("full", "text-only", "fewer-frames", "one-frame-a-scene"):
        assert METHODS[name].settings(0.1, 12).keeps_all
    assert {name for name, method in METHODS.items() if not method.budgeted} == {
        "full",
        "text-only",
        "one-frame-a-scene",
    }
    assert [name for name, method in METHODS.items() if method.scenes] == ["one-frame-a-scene"]
    assert [name for name, method in METHODS.items() if method.blank] == ["text-only"]
    assert [name for name, method in METHODS.items() if method.random] == ["random"]


def test_fewer_frames() -> None:
    frames = METHODS["fewer-frames"].frames
    assert frames is not None
    assert [frames(budget, 32) for budget in BUDGETS] == [16, 9, 6, 3, 1]
    assert frames(0.3, 10) == 3
    with pytest.raises(BudgetError, match="one of 8 frames is more") as caught:
        frames(0.1, 8)
    assert caught.value.smallest == 1 / 8
    with pytest.raises(ValueError, match="budget must be a share"):
        frames(0, 8)


@pytest.mark.parametrize("method", [m for m in SPENDING if m.rule is not None], ids=lambda method: method.name)
def test_a_rule_is_the_method_without_its_stages(method: Method) -> None:
    assert method.rule is not None
    settings = method.settings(0.2, 28)
    stages = (
        {"keep": settings.keep} if settings.keep is not None else {"cost": settings.cost, "stages": settings.stages}
    )
    assert FrameFusion(**stages, **method.rule) == settings


def test_the_share_of_one_stage() -> None:
    assert one_stage(0.2, 28, 2) == {2: pytest.approx((0.2 * 28 - 2) / 26)}
    assert one_stage(1.0, 28, 2) == {2: 1.0}


@pytest.mark.parametrize("layers", range(1, 7))
def test_shallow_models(layers: int) -> None:
    for method in METHODS.values():
        settings = reached(method, 0.5, layers)
        if method in SPENDING and isinstance(settings, FrameFusion):
            assert sum(planned(settings, 2048, layers)) <= 1.02 * 0.5 * 2048 * layers


def test_no_two_methods_are_the_same() -> None:
    assert all(name == method.name for name, method in METHODS.items())
    settings = {name: method.settings(0.3, 28) for name, method in METHODS.items() if method in SPENDING}
    for name, own in settings.items():
        twins = [other for other, its in settings.items() if its == own]
        assert twins == [name]


def test_an_ablation_changes_nothing_else() -> None:
    base = METHODS["segment-dpp"]
    changed = variant(base, "windows", segmentation="windows")
    expected = replace(base.settings(0.2, 28), segmentation="windows")
    assert changed.settings(0.2, 28) == expected
    assert METHODS["segment-dpp:dyseg"].settings(0.2, 28).segmentation == DySeg(threshold=0.9, minimum=8)
    assert (changed.name, changed.kind) == ("segment-dpp:windows", "ablation")
    with pytest.raises(BudgetError):
        changed.settings(0.05, 28)
    for changes in ({}, {"keep": 0.2}, {"cost": 0.2}):
        with pytest.raises(ValueError, match="changes must name fields of FrameFusion other than cost and keep"):
            variant(base, "x", **changes)


def test_a_rule_is_that_of_the_settings() -> None:
    """Between 10 % and all: HoliTom has another threshold below."""
    ruled = [method for method in METHODS.values() if method.rule is not None]
    assert {"holitom"} <= {method.name for method in ruled}
    for method in ruled:
        assert method.rule is not None
        settings = method.settings(0.3, 28)
        assert replace(settings, **method.rule) == settings
        assert not {"cost", "keep", "stages"} & set(method.rule)


def test_holitom_has_two_thresholds() -> None:
    chosen = [METHODS["holitom"].settings(budget, 28).selector for budget in (0.11, 0.1, 0.05)]
    assert chosen == ["holitom", "holitom-loose", "holitom-loose"]


@pytest.mark.parametrize("budget", [0, -0.1, 1.5, True, "0.2", float("nan")])
def test_a_budget_that_is_none(budget: object) -> None:
    with pytest.raises(ValueError, match="budget must be a share of the token-layers"):
        METHODS["random"].settings(budget, 12)  # type: ignore[arg-type]


@pytest.mark.parametrize("layers", [0, -1, 2.0, True])
def test_layers_that_are_none(layers: object) -> None:
    with pytest.raises(ValueError, match="layers must be a whole number, at least 1"):
        METHODS["random"].settings(0.2, layers)  # type: ignore[arg-type]


def test_the_docs_list_every_method() -> None:
    text = (Path(__file__).parents[3] / "docs" / "how-it-works" / "methods.md").read_text(encoding="utf-8")
    for method in METHODS.values():
        assert f"`{method.name}`" in text
        for paper in method.citation.replace(",", " ").split():
            assert paper in text or not paper[:4].isdigit()
