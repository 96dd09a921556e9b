from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from framefusion.reduction.schedule import (
    STAGES,
    Cascade,
    Pyramid,
    Staged,
    check_cost,
    default_layer,
    pyramid,
    smallest_cost,
)


def run(plan: Cascade | Staged, tokens: int, layers: int, mergeable: list[float]) -> list[int]:
    """Tokens per layer when a share ``mergeable[layer]`` of the present tokens is similar enough to merge."""
    present, counts = tokens, []
    for layer in range(layers):
        similar = int(mergeable[layer] * present) if plan.wants_merges(layer) else 0
        recorded = plan.wants_attention(layer)
        step = plan.step(layer, present, similar)
        assert 0 <= step.merge <= similar
        if step.keep is not None:
            assert 1 <= step.keep < present - step.merge
            assert recorded or (layer == 0 and isinstance(plan, Staged))
        present = present - step.merge if step.keep is None else step.keep
        counts.append(present)
    return counts


@given(st.data())
def test_a_reachable_cost_is_met(data: st.DataObject) -> None:
    layers, tokens = data.draw(st.integers(2, 40)), data.draw(st.integers(1, 5000))
    first = data.draw(st.integers(1, layers))
    cost = data.draw(st.floats(smallest_cost(tokens, layers, first), 1))
    mergeable = data.draw(st.lists(st.floats(0, 1), min_size=layers, max_size=layers))
    counts = run(Cascade(tokens, layers, cost, first=first), tokens, layers, mergeable)
    spent = sum(counts) / (layers * tokens)
    # The stage that ends the cascade rounds to a whole token, for all layers behind it.
    assert abs(spent - cost) <= 1 / tokens + 1e-9
    assert counts[-1] >= 1


def test_the_published_formula() -> None:
    """With shares instead of tokens: kept = prod(1 - s), spent = sum of kept; next ratio as published."""
    tokens, layers, cost, sparsities = 10_000, 28, 0.3, [0.2, 0.15, 0.12]
    plan = Cascade(tokens, layers, cost)
    present, kept, spent = tokens, 1.0, 0.0
    for layer, s in enumerate(sparsities):
        expected = 1 - (layers * cost - spent) / ((layers - layer) * kept)
        assert plan.required_ratio(layer, present) == pytest.approx(expected, abs=1e-9)
        present -= plan.step(layer, present, round(s * present)).merge
        kept *= 1 - s
        spent += kept
    step = plan.step(3, present, round(0.05 * present))
    present -= step.merge
    kept *= 0.95
    spent += kept
    assert not plan.wants_merges(4)
    expected = 1 - (layers * cost - spent) / ((layers - 4) * kept)
    assert plan.step(4, present).keep == pytest.approx((1 - expected) * present, abs=1)


def test_enough_similar_tokens_end_the_cascade_in_one_merge() -> None:
    plan = Cascade(1000, 10, 0.4)
    assert plan.step(0, 1000, 900) == (int(0.6 * 1000), None)
    assert not plan.wants_merges(1)
    assert not plan.wants_attention(1)
    assert plan.step(1, 400) == (0, None)


def test_merging_stops_before_the_cost_is_out_of_reach() -> None:
    """Where the published code raises in the middle of a prefill."""
    plan = Cascade(1000, 10, 0.2)
    assert plan.step(0, 1000, 150) == (150, None)
    assert plan.step(1, 850, 120) == (120, None)
    # 850 + 730 are spent of 2000; one more layer at 630 would be too much.
    step = plan.step(2, 730, 100)
    assert step.merge == 0
    assert step.keep == (2000 - 850 - 730 + 4) // 8


def test_nothing_to_merge_prunes_before_layer_one() -> None:
    plan = Cascade(100, 5, 0.5)
    assert plan.step(0, 100) == (0, None)
    assert not plan.wants_merges(1)
    assert plan.step(1, 100) == (0, 38)


def test_before_any_attention_there_is_no_pruning() -> None:
    plan = Cascade(100, 8, 0.7, first=4)
    assert not any(plan.wants_attention(layer) for layer in range(4))
    assert plan.wants_attention(4)
    assert [plan.step(layer, 100).keep for layer in range(5)] == [None] * 4 + [40]


def test_merging_goes_on_before_any_attention() -> None:
    """Where no pruning could stand in for it, whatever the cost."""
    plan = Cascade(1000, 8, 0.45, first=3)
    assert [plan.step(0, 1000, 150).merge, plan.step(1, 850, 120).merge, plan.step(2, 730, 10).merge] == [150, 120, 10]
    # So few end the merging; 850 + 730 + 720 are spent of 3600.
    assert plan.step(3, 720) == (0, 1300 // 5)


@given(st.integers(1, 10_000), st.integers(1, 60), st.integers(1, 9), st.floats(0.001, 0.999))
def test_an_unreachable_cost_is_refused_with_the_smallest(
    tokens: int, layers: int, first: int, fraction: float
) -> None:
    cost = smallest_cost(tokens, layers, first) * fraction
    assume(cost < smallest_cost(tokens, layers, first) - 1e-9)
    with pytest.raises(ValueError, match=f"the smallest cost for a video of {tokens} visual tokens is"):
        Cascade(tokens, layers, cost, first=first)


def test_the_number_in_the_refusal_is_reachable() -> None:
    with pytest.raises(ValueError, match=r"smallest cost for any video is 0\.0358"):
        check_cost(0.03, 28)
    check_cost(0.0358, 28)
    with pytest.raises(ValueError, match=r"visual tokens is 0\.1900") as error:
        check_cost(0.15, 10, 10)
    check_cost(0.19, 10, 10)
    assert "cost=0.15" in str(error.value)
    with pytest.raises(ValueError, match=r"the first 4 layers, before any softmax attention, .* any video is 0\.1250"):
        check_cost(0.12, 32, first=4)
    check_cost(0.125, 32, first=4)
    with pytest.raises(ValueError, match=r"the first 4 layers, .* visual tokens is 0\.4600"):
        check_cost(0.45, 10, 10, first=4)
    check_cost(0.46, 10, 10, first=4)
    assert smallest_cost(10, 4, first=9) == 1


def test_staged_shares_are_of_the_original_tokens() -> None:
    assert run(Staged(512, {1: 0.5, 3: 0.1}), 512, 5, [0.0] * 5) == [512, 256, 256, 51, 51]
    assert run(Staged(512, {1: 1.0}), 512, 2, [0.0] * 2) == [512, 512]


def test_staged_merging_never_goes_below_the_first_stage() -> None:
    assert run(Staged(100, {2: 0.5}, merge=True), 100, 4, [0.3, 0.9, 0.9, 0.9]) == [70, 50, 50, 50]
    assert run(Staged(100, {2: 0.5}, merge=True), 100, 4, [0.3, 0.05, 0.9, 0.9]) == [70, 67, 50, 50]
    assert run(Staged(100, {0: 0.5, 1: 0.2}, merge=True), 100, 2, [0.3, 0.9]) == [50, 20]


@given(st.data())
def test_an_adaptive_cascade_never_costs_more(data: st.DataObject) -> None:
    """Whatever the stages leave out beyond what their steps ask for."""
    layers, tokens = data.draw(st.integers(2, 30)), data.draw(st.integers(1, 3000))
    first = data.draw(st.integers(1, layers))
    cost = data.draw(st.floats(smallest_cost(tokens, layers, first), 1))
    plan = Cascade(tokens, layers, cost, first=first, adaptive=True)
    present, spent, prunings = tokens, 0, 0
    for layer in range(layers):
        similar = int(data.draw(st.floats(0, 1)) * present) if plan.wants_merges(layer) else 0
        recorded = plan.wants_attention(layer)
        step = plan.step(layer, present, similar)
        present -= step.merge
        if step.keep is not None:
            assert recorded
            assert 1 <= step.keep <= present
            present = data.draw(st.integers(1, step.keep))
            prunings += 1
        spent += present
    assert spent <= layers * tokens * cost + layers / 2 + 1e-6
    assert prunings <= 1


def test_an_adaptive_cascade_prunes_even_if_merging_has_met_the_cost() -> None:
    plan = Cascade(1000, 10, 0.4, adaptive=True)
    assert plan.step(0, 1000, 900) == (600, None)
    assert not plan.wants_merges(1)
    assert plan.wants_attention(1)
    assert plan.step(1, 400) == (0, 400)
    assert not plan.wants_attention(2)
    assert plan.step(2, 90) == (0, None)
    everything = Cascade(1000, 10, 1.0, adaptive=True)
    assert not everything.wants_merges(0)
    assert [everything.step(0, 1000), everything.step(1, 1000)] == [(0, None), (0, 1000)]


def test_adaptive_stages_prune_whatever_is_present() -> None:
    plan = Staged(100, {1: 1.0, 2: 0.4, 3: 0.2}, adaptive=True)
    assert [plan.step(layer, present).keep for layer, present in enumerate([100, 100, 30, 30])] == [None, 100, 30, 20]
    assert plan.wants_attention(1)
    assert Staged(0, {1: 1.0}, adaptive=True).step(1, 0).keep is None


@pytest.mark.parametrize(("layers", "layer"), [(1, 0), (2, 1), (4, 1), (12, 1), (28, 2), (36, 3), (64, 5), (80, 6)])
def test_default_layer(layers: int, layer: int) -> None:
    assert default_layer(layers) == layer


@pytest.mark.parametrize(("layers", "layer"), [(4, 0), (5, 4), (28, 4), (64, 5)])
def test_default_layer_behind_linear_attention(layers: int, layer: int) -> None:
    assert default_layer(layers, first=4) == layer


ascending = st.lists(st.floats(0.01, 0.99), max_size=3, unique=True).map(sorted)
falling = st.lists(st.floats(0.01, 1), min_size=3, max_size=3).map(lambda shares: sorted(shares, reverse=True))
shapes = st.builds(lambda parts, ratios: ((0.0, 1.0), *zip(parts, ratios, strict=False)), ascending, falling)


@given(st.integers(1, 60), st.floats(1e-3, 1), st.integers(1, 20), st.just(STAGES) | shapes)
def test_the_pyramid_spends_the_cost(
    layers: int, cost: float, first: int, steps: tuple[tuple[float, float], ...]
) -> None:
    shares = pyramid(cost, layers, first, steps)
    ends = [*list(shares)[1:], layers]
    spent = sum(share * (end - layer) for (layer, share), end in zip(shares.items(), ends, strict=True))
    assert spent / layers == pytest.approx(cost)
    assert next(iter(shares)) == 0
    assert all(layer == 0 or first <= layer < layers for layer in shares)
    assert sorted(shares.values(), reverse=True) == list(shares.values())
    assert max(shares.values()) <= 1


def test_shares_of_the_pyramid() -> None:
    assert pyramid(0.3, 12) == pytest.approx({0: 0.4, 8: 0.1})
    assert pyramid(0.8, 12) == pytest.approx({0: 1.0, 8: 0.4})
    assert pyramid(1.0, 12) == pytest.approx({0: 1.0, 8: 1.0})
    assert pyramid(0.39, 12, first=9) == pytest.approx({0: 0.48, 9: 0.12})
    three = ((0.0, 1.0), (1 / 3, 0.5), (2 / 3, 0.05))
    assert pyramid(0.31, 12, steps=three) == pytest.approx({0: 0.6, 4: 0.3, 8: 0.03})
    assert pyramid(0.7, 12, steps=three) == pytest.approx({0: 1.0, 4: 1.0, 8: 0.1})
    assert pyramid(0.3, 12, first=6, steps=three) == pytest.approx({0: 0.5, 6: 0.25, 8: 0.025})
    assert pyramid(0.3, 12, first=12) == pytest.approx({0: 0.3})
    assert pyramid(0.2, 12, steps=((0.0, 1.0), (2 / 3, 0.5))) == pytest.approx({0: 0.24, 8: 0.12})
    late = ((0.25, 1.0), (0.5, 0.5))
    assert pyramid(0.5, 12, steps=late) == pytest.approx({3: 0.5, 6: 0.25})
    assert pyramid(0.9, 12, steps=late) == pytest.approx({3: 1.0, 6: 0.8})
    assert pyramid(1.0, 4, steps=((0.9, 1.0),)) == {}
    with pytest.raises(ValueError, match=r"cost=0\.25 cannot be reached: stages begin behind 3 of 12 decoder layers"):
        pyramid(0.25, 12, steps=late)


@given(st.data())
def test_a_pyramid_meets_its_cost(data: st.DataObject) -> None:
    layers, tokens = data.draw(st.integers(1, 40)), data.draw(st.integers(1, 5000))
    first = data.draw(st.integers(1, layers))
    cost = data.draw(st.floats(1 / tokens, 1))
    steps = data.draw(st.just(STAGES) | shapes)
    present, counts = tokens, []
    plan = Pyramid(tokens, layers, cost, first=first, steps=steps)
    for layer in range(layers):
        assert not plan.wants_merges(layer)
        assert layer >= first or not plan.wants_attention(layer)
        keep = plan.step(layer, present).keep
        present = present if keep is None else keep
        counts.append(present)
    assert counts[-1] >= 1
    behind = layers - max(pyramid(cost, layers, first, steps))
    bound = behind / 2 if cost * tokens >= 50 else layers / 2
    assert abs(sum(counts) - cost * layers * tokens) <= bound + 1e-6


def test_a_pyramid_keeps_one_token() -> None:
    plan = Pyramid(10, 12, 0.01)
    assert [plan.step(layer, 1 if layer else 10).keep for layer in range(12)] == [1] + [None] * 11
    assert Pyramid(0, 12, 0.5).step(0, 0).keep is None


def test_an_adaptive_pyramid_asks_in_every_stage() -> None:
    plan = Pyramid(100, 12, 1.0, adaptive=True)
    assert [plan.step(layer, 50).keep for layer in (0, 1, 4, 8)] == [50, None, None, 50]
