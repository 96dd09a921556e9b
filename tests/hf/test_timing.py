"""Where the time goes: every part gets what went by inside it, by a clock that the modules themselves put forward."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

import framefusion
from framefusion import FrameFusion
from framefusion.hf import timing, tower
from framefusion.hf.decoder import decoder_of
from framefusion.hf.families import find
from framefusion.hf.timing import Clock, Meter, Times, projectors, timed
from framefusion.reduction.changes import Changed
from tests.hf import models
from tests.hf.case import Case
from tests.hf.prompts import PROMPTS

TOWER, PROJECTOR, LAYER = 100.0, 10.0, 1.0


class World:
    """Time goes by when a module runs, and at no other moment."""

    def __init__(self) -> None:
        self.now, self.encoded, self.projected = 0.0, 0, 0

    def __call__(self) -> float:
        return self.now

    def pass_by(self, seconds: float, counts: str | None = None) -> Any:
        def hook(*_: Any) -> None:
            self.now += seconds
            if counts is not None:
                setattr(self, counts, getattr(self, counts) + 1)

        return hook


@contextmanager
def measured(case: Case) -> Iterator[tuple[World, Clock]]:
    """A clock of a world in which time goes by."""
    made = World()
    with timed(case.model, made) as clock, moving(case, made):
        yield made, clock


@contextmanager
def moving(case: Case, made: World) -> Iterator[None]:
    """Time goes by when the vision tower, the projector and each decoder layer run; behind the hooks of the clock."""
    multimodal = case.model.base_model
    towers = (getattr(multimodal, name, None) for name in ("visual", "vision_tower", "vision_model", "video_tower"))
    own = next(module for module in towers if module is not None)
    handles = [own.register_forward_pre_hook(made.pass_by(TOWER, "encoded"))]
    projected, layer = made.pass_by(PROJECTOR, "projected"), made.pass_by(LAYER)
    handles += [module.register_forward_pre_hook(projected) for module in projectors(multimodal)]
    handles += [module.register_forward_pre_hook(layer) for module in decoder_of(multimodal).layers]
    yield
    for handle in handles:
        handle.remove()


def single(case: Case) -> dict[str, Any]:
    return case.inputs(PROMPTS["single"](case))


def layers(case: Case) -> int:
    return len(case.decoder.layers)


@pytest.mark.parametrize("ahead", [False, True], ids=["forward", "generate"])
@pytest.mark.parametrize("family", models.BUILDERS)
@torch.no_grad()
def test_every_part_has_its_own_time(family: str, ahead: bool) -> None:
    """Inside the forward pass, and where ``generate()`` encodes ahead of it; steps belong to no part."""
    case = models.build(family)
    with measured(case) as (now, clock):
        if ahead:
            case.model.generate(**single(case), max_new_tokens=3, do_sample=False)
        else:
            case.model(**single(case))
    assert now.encoded
    assert now.projected
    # Gemma 3n embeds words with it, too, in the prefill and in every step.
    projected = 2 if ahead and family == "gemma3n" else now.projected
    assert clock.times == Times(tower=TOWER * now.encoded, projector=PROJECTOR * projected, prefill=layers(case))


@pytest.mark.parametrize("family", models.BUILDERS)
@torch.no_grad()
def test_the_projector_gives_what_the_decoder_takes(family: str) -> None:
    case = models.build(family)
    modules, widths = projectors(case.model.base_model), []
    for module in modules:
        module.register_forward_hook(lambda module, args, output: widths.append(output[-1].shape[-1]))
    case.model(**single(case))
    assert len(widths) >= len(modules) > 0
    assert widths[-1] == case.model.config.get_text_config().hidden_size


@pytest.mark.parametrize("family", ["llava_onevision", "qwen3_vl"])
@torch.no_grad()
def test_a_reduction_is_timed_and_its_encoder_counted(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case = models.build(family, attention="eager")
    encode = case.model.base_model.get_video_features
    with FlopCounterMode(display=False) as counter:
        known = {"pixel_values_videos", "video_grid_thw"}
        encode(**{name: value for name, value in single(case).items() if name in known})
    now = World()
    monkeypatch.setattr(timing, "clock_of", lambda model: Clock([torch.device("cpu")], now))
    with framefusion.attach(case.model, FrameFusion(), timed=True) as run, moving(case, now):
        case.model.generate(**single(case), max_new_tokens=2, do_sample=False)
        assert run.times == Times(tower=TOWER * now.encoded, projector=PROJECTOR * now.projected, prefill=layers(case))
    summary = run.summary()
    assert summary.times == run.times
    assert summary.encoder_flops == pytest.approx(counter.get_total_flops(), rel=0.02)
    assert summary.projector_flops is not None
    assert 0 < summary.projector_flops < summary.encoder_flops
    config = case.model.config.get_text_config()
    assert summary.head_flops == 2 * config.hidden_size * config.vocab_size
    around = summary.encoder_flops + summary.head_flops
    assert summary.end_to_end_factor == (around + summary.flops_before) / (around + summary.flops_after)
    half = replace(summary, tower_share=0.5)
    assert half.first_token_flops == (
        around + summary.flops_before,
        around - (summary.encoder_flops - summary.projector_flops) / 2 + summary.flops_after,
    )
    assert summary.as_dict()["times"]["prefill"] == layers(case)


@torch.no_grad()
def test_a_tower_that_encodes_what_changed_is_timed_with_its_search(monkeypatch: pytest.MonkeyPatch) -> None:
    case = models.build("qwen2_5_vl")
    now = World()
    monkeypatch.setattr(timing, "clock_of", lambda model: Clock([torch.device("cpu")], now))
    original = tower.changed_units
    monkeypatch.setattr(tower, "changed_units", lambda *given: now.pass_by(7.0)() or original(*given))
    settings = FrameFusion(tower=Changed(std=(0.5, 0.5, 0.5)))
    with framefusion.attach(case.model, settings, timed=True) as run, moving(case, now):
        case.model(**single(case))
    assert run.times == Times(tower=TOWER + 7.0, projector=PROJECTOR, prefill=layers(case))


@torch.no_grad()
def test_nobody_asked() -> None:
    case = models.build("qwen2_5_vl")
    before = sum(len(module._forward_pre_hooks) for module in case.model.modules())
    with framefusion.attach(case.model, FrameFusion()) as run:
        assert "get_video_features" not in vars(case.model.base_model)
        case.model(**single(case))
        untimed = sum(len(module._forward_pre_hooks) for module in case.model.modules())
    summary = run.summary()
    assert (summary.times, summary.encoder_flops, summary.end_to_end_factor) == (None, None, None)
    with framefusion.attach(case.model, FrameFusion(), timed=True):
        assert sum(len(module._forward_pre_hooks) for module in case.model.modules()) > untimed
    assert sum(len(module._forward_pre_hooks) for module in case.model.modules()) == before
    assert "get_video_features" not in vars(case.model.base_model)


@torch.no_grad()
def test_a_family_that_does_not_tell_its_projector(monkeypatch: pytest.MonkeyPatch) -> None:
    case = models.build("llava_onevision")
    monkeypatch.setattr(type(find(case.model)), "projector", ())
    with timed(case.model) as clock:
        assert clock.times is None
        case.model(**single(case))
    assert clock.times is not None
    assert (clock.times.tower, clock.times.projector) == (None, None)
    assert clock.times.prefill


@torch.no_grad()
def test_what_was_encoded_before_has_no_time() -> None:
    case = models.build("llava_onevision")
    inputs = single(case)
    encoded = case.model.base_model.get_video_features(inputs["pixel_values_videos"], return_dict=True)
    with timed(case.model) as clock:
        case.model(**inputs)
        inputs.pop("pixel_values_videos")
        case.model(**inputs, mm_encoder_outputs={"video": encoded})
    assert clock.times is not None
    assert (clock.times.tower, clock.encodings) == (None, ())


@torch.no_grad()
def test_checking_drafts_is_no_prefill() -> None:
    case = models.build("qwen2_5_vl")
    with measured(case) as (now, clock):
        case.model.generate(**single(case), max_new_tokens=6, do_sample=False, prompt_lookup_num_tokens=2)
        assert now.now > TOWER + PROJECTOR + 2 * layers(case)
    assert clock.times == Times(tower=TOWER, projector=PROJECTOR, prefill=layers(case))


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("where", ["tower", "projector", "decoder"])
@torch.no_grad()
def test_what_failed_counts_for_nothing(where: str, error: type[BaseException]) -> None:
    """Ctrl-C runs no hook, so nothing ends what it interrupts."""
    case = models.build("qwen2_5_vl")
    multimodal = case.model.base_model
    deep = {
        "tower": multimodal.visual.blocks[0],
        "projector": multimodal.visual.merger.mlp,
        "decoder": decoder_of(multimodal).layers[1],
    }

    def fail(*_: Any) -> None:
        raise error

    with measured(case) as (now, clock):
        handle = deep[where].register_forward_pre_hook(fail)
        with pytest.raises(error):
            case.model(**single(case))
        handle.remove()
        now.now += 1e6
        case.model(**single(case))
    assert clock.times == Times(tower=TOWER, projector=PROJECTOR, prefill=layers(case))
    assert len(clock.encodings) == 1


@torch.no_grad()
def test_each_thread_has_its_own_latest_prefill() -> None:
    case = models.build("llava_onevision")
    other, found = case.inputs([[5, 7]]), []
    with measured(case) as (_, clock):
        case.model(**single(case))

        def elsewhere() -> None:
            found.append(clock.times)
            with torch.no_grad():
                case.model(**other)
            found.append(clock.times)

        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
    own = Times(tower=TOWER, projector=PROJECTOR, prefill=layers(case))
    assert clock.times == own
    assert found == [own, Times(prefill=layers(case))]


@torch.no_grad()
def test_compiled_steps_are_as_before() -> None:
    """What is compiled is not measured, and breaks no graph that was whole."""
    case = models.build("llava_onevision")
    counters = torch._dynamo.utils.counters
    inputs = {name: value for name, value in single(case).items() if "pixel" not in name}

    def breaks() -> int:
        torch.compiler.reset()
        counters.clear()
        torch.compile(case.model.forward, backend="eager")(**inputs)
        return sum(counters["graph_break"].values())

    plain = breaks()
    with timed(case.model) as clock:
        assert breaks() == plain
    assert clock.times is None


PARTS = ("a", "b", "c")


@given(st.lists(st.tuples(st.sampled_from(("enter", "leave", "wait")), st.sampled_from(PARTS)), max_size=40))
def test_a_meter_gives_each_moment_to_the_innermost_part(events: list[tuple[str, str]]) -> None:
    """Beside one that writes down, for every second, what was open then."""
    now, stack, expected = 0, [], dict.fromkeys(PARTS, 0)
    meter = Meter(lambda: now)
    for what, part in events:
        if what == "wait":
            now += 1
            if stack:
                expected[stack[-1]] += 1
        elif what == "enter":
            meter.enter(part)
            stack.append(part)
        else:
            meter.leave(part)
            if part in stack:
                stack = stack[: len(stack) - 1 - stack[::-1].index(part)]
    for part in reversed(stack):
        meter.leave(part)
    assert {part: meter.totals.get(part, 0) for part in PARTS} == expected


def test_the_parts_add_up_to_the_first_token() -> None:
    measured = Times(decode=1.0, processor=2.0, tower=3.0, projector=0.5, prefill=4.0)
    times = measured.answered(8.0, 0.25)
    assert times.other == 0.5
    assert times.first_token == sum(times.parts.values()) == 11.0
    assert times.largest == ("prefill", 4 / 11)
    assert list(times.parts) == list(timing.PARTS)
    # What is not measured is in the rest, and nothing is 0.
    unknown = Times(prefill=4.0).answered(8.0, None)
    assert (unknown.tower, unknown.other, unknown.first_token) == (None, 4.0, 8.0)
    assert Times().largest is None


def test_medians_are_of_what_every_run_measured() -> None:
    runs = [Times(tower=1.0, prefill=5.0), Times(tower=3.0, prefill=4.0), Times(tower=2.0)]
    assert Times.median(runs) == Times(tower=2.0)
