"""Settings files: what is written is read again, and everything else is refused by name."""

from __future__ import annotations

import json
from dataclasses import fields

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

import framefusion
from framefusion import (
    DPP,
    Absorb,
    DynamicProgramming,
    DySeg,
    FrameFusion,
    FrameSimilarity,
    Merging,
    Novelty,
    Relevance,
    Windows,
    load_settings,
    save_settings,
)
from framefusion.reduction import settings as settings_module
from framefusion.reduction.changes import Changed
from framefusion.reduction.plain import from_flat, from_plain, to_plain
from framefusion.reduction.schedule import STAGES
from framefusion.reduction.selectors.dpp import DPPOnce
from framefusion.reduction.settings_file import (
    SCHEMA,
    Calibration,
    SettingsFileError,
    StoredSettings,
    Trial,
    read,
)
from tests.hf import models

CALIBRATION = Calibration(
    floor=0.98,
    confidence=0.95,
    budget=0.3,
    method="segment-dpp-cascade",
    measure="agreement",
    unit="video",
    units=160,
    questions=160,
    frames=8,
    new_tokens=16,
    full=1.0,
    model="bundled (Tiny, float32, weights 01234567)",
    data="mine.jsonl",
    version="0.1.0",
    budgets=(
        Trial(1.0, "holds", 1.0, 1.0, 1.0),
        Trial(0.3, "holds", 0.301, 1.0, 0.981),
        Trial(0.2, "unclear", 0.2, 0.99, 0.96, 400),
        Trial(0.1, "unreachable", reason="too deep"),
    ),
)

shares = st.floats(0.001, 1)
stages = st.dictionaries(st.integers(0, 60), shares, min_size=1, max_size=4).map(
    lambda given: dict(zip(sorted(given), sorted(given.values(), reverse=True), strict=True))
)


@st.composite
def any_settings(draw):
    """Settings with any values in any of the fields; what contradicts itself is drawn anew."""
    several = draw(st.booleans())
    one = {"cost": shares, "keep": st.one_of(shares, stages)}
    name = draw(st.sampled_from(["cost", "keep"]))
    value = draw(st.lists(one[name], min_size=1, max_size=3)) if several else draw(one[name])
    shapes = st.sampled_from(["auto", STAGES, ((0, 1),), ((0.0, 1.0), (1 / 3, 0.7), (0.5, 0.1)), ((0.1, 1),)])
    chosen = draw(
        st.fixed_dictionaries(
            {},
            optional={
                "merging": st.one_of(st.none(), st.builds(Merging, st.floats(-1, 1), st.floats(0, 1))),
                "segmentation": st.one_of(
                    st.sampled_from(["frames", "single"]),
                    st.builds(FrameSimilarity, st.floats(0, 1), st.floats(-1, 1)),
                    st.builds(DySeg, st.floats(0, 1), st.integers(1, 40)),
                    st.builds(DynamicProgramming, st.floats(0, 1), st.none() | st.floats(1, 100)),
                    st.builds(Windows, st.integers(1, 40)),
                ),
                "budget_rule": st.sampled_from(["uniform", "marginal-value", "joint"]),
                "relevance": st.builds(
                    Relevance,
                    st.sampled_from(["last", "text", "all-viewers", "similarity", "none"]),
                    st.sampled_from([1, -1]),
                    st.floats(0, 100),
                ),
                "selector": st.one_of(
                    st.sampled_from(["topk", "uniform", "random"]),
                    st.builds(DPP, st.one_of(st.none(), st.floats(0.1, 20)), st.floats(0.1, 1)),
                    st.builds(DPPOnce, st.one_of(st.none(), st.floats(0.1, 20)), st.floats(0.1, 1)),
                ),
                "novelty": st.one_of(st.none(), st.builds(Novelty, st.floats(0.01, 1), st.floats(0, 0.2))),
                "dropped": st.one_of(st.just("drop"), st.builds(Absorb, st.floats(-1, 1))),
                "stages": shapes,
                "seed": st.integers(-5, 2**40),
                "images": st.booleans(),
                "tower": st.one_of(
                    st.none(),
                    st.just("changed"),
                    st.builds(
                        Changed,
                        st.floats(0, 255),
                        st.floats(0.1, 1),
                        st.floats(0, 1),
                        st.one_of(st.none(), st.lists(st.floats(0.1, 2), min_size=1, max_size=3)),
                    ),
                ),
            },
        )
    )
    try:
        return FrameFusion(**{name: value}, **chosen)
    except ValueError:
        return FrameFusion(**{name: value})


@examples(max_examples=150, deadline=None)
@given(any_settings())
def test_what_is_written_is_read(tmp_path_factory, settings):
    path = tmp_path_factory.getbasetemp() / "round-trip.json"
    save_settings(path, settings, CALIBRATION)
    assert read(path) == StoredSettings(settings, CALIBRATION)
    assert load_settings(str(path)) == settings


def test_every_field_is_written_so_that_a_new_default_changes_no_file(tmp_path):
    path = tmp_path / "settings.json"
    save_settings(path, FrameFusion())
    content = json.loads(path.read_text())
    stages = [[0.0, 1.0], [2 / 3, 0.25]]
    assert content["schema"] == SCHEMA == 2
    assert content["settings"] == {
        "cost": 0.3,
        "keep": None,
        "stages": stages,
        "merging": None,
        "segmentation": {"rule": "dp", "threshold": 0.8, "sudden": 4.0},
        "budget_rule": "joint",
        "relevance": {"source": "late-text", "sign": 1, "exponent": 1.0},
        "selector": {"rule": "dpp", "gamma": 1.0, "later_frames": 0.95},
        "novelty": None,
        "dropped": {"rule": "absorb", "lower_bound": 0.9},
        "seed": 0,
        "images": True,
        "tower": None,
    }
    for without in (FrameFusion(merging=True), FrameFusion(keep=0.2)):
        assert to_plain(without)["stages"] is None
    assert set(content["settings"]) == {field.name for field in fields(FrameFusion)}
    assert read(path).calibration is None
    assert list(tmp_path.iterdir()) == [path]


def test_numbers_of_other_kinds_are_written_as_numbers(tmp_path):
    path = tmp_path / "settings.json"
    save_settings(path, FrameFusion(keep={np.int64(2): np.float32(0.5)}, seed=np.int64(3)))
    content = json.loads(path.read_text())["settings"]
    assert (content["keep"], content["seed"]) == ({"2": 0.5}, 3)
    assert load_settings(path) == FrameFusion(keep={2: 0.5}, seed=3)


def test_fields_may_be_left_out_by_hand(tmp_path):
    path = tmp_path / "settings.json"
    path.write_text('\ufeff{"schema": 1, "settings": {"keep": {"2": 0.5, "14": 0.1}}}', encoding="utf-8")
    assert load_settings(path) == FrameFusion(keep={2: 0.5, 14: 0.1})
    path.write_text('{"schema": 2, "settings": {"segmentation": "dyseg", "selector": {"rule": "dpp", "gamma": null}}}')
    assert load_settings(path) == FrameFusion(segmentation=DySeg(), selector=DPP(gamma=None))
    path.write_text('{"schema": 2, "settings": {"segmentation": {"rule": "single"}}}')
    assert load_settings(path) == FrameFusion(segmentation="single")
    path.write_text('{"schema": 2, "settings": {}, "calibration": null}')
    assert read(path) == StoredSettings(FrameFusion(), None)


def test_a_second_file_replaces_the_first(tmp_path):
    path = tmp_path / "settings.json"
    save_settings(path, FrameFusion(keep=0.2), CALIBRATION)
    save_settings(path, FrameFusion(keep=0.1))
    assert read(path) == StoredSettings(FrameFusion(keep=0.1), None)


def written(tmp_path, **changes):
    path = tmp_path / "settings.json"
    save_settings(path, FrameFusion(), CALIBRATION)
    content = json.loads(path.read_text())
    for name, value in changes.items():
        *groups, last = name.split("__")
        place = content
        for group in groups:
            place = place[int(group) if group.isdigit() else group]
        if value is ...:
            del place[last]
        else:
            place[last] = value
    path.write_text(json.dumps(content))
    return path


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schema": 3}, "schema 3 is of a later framefusion, this one reads 2; upgrade it"),
        ({"schema": 0}, "schema must be 1 or 2, got 0"),
        ({"schema": True}, "schema must be 1 or 2, got True"),
        ({"schema": "1"}, "schema must be 1 or 2, got '1'"),
        ({"schema": ...}, "it is no settings file, which is an object with "),
        ({"settings": ...}, "the file has no 'settings'"),
        ({"settings": []}, r"settings must be an object, got \[\]"),
        ({"extra": 1}, "the file has an unknown field 'extra'; known are calibration, schema, settings"),
        ({"settings__kept": 0.2}, "settings has an unknown field 'kept'; known are budget_rule, cost, "),
        ({"settings__cost": "0.3"}, "cost must be a number, got '0.3'"),
        ({"settings__cost": 2}, r"cost must be in \(0, 1\], got 2"),
        ({"settings__cost": []}, "cost is an empty sequence"),
        ({"settings__cost": {"1": 0.5}}, "cost must be a number, got {'1': 0.5}"),
        ({"settings__cost": 10**400}, "settings have a number that is too large"),
        ({"settings__keep": 0.2}, "cost=0.3 and keep=0.2 exclude each other"),
        ({"settings__cost": None, "settings__keep": {"two": 0.2}}, "keep: layer 'two' must be a whole number"),
        ({"settings__cost": None, "settings__keep": {"02": 0.2}}, "keep: layer '02' must be a whole number"),
        ({"settings__cost": None, "settings__keep": {"-1": 0.2}}, "keep: layer '-1' must be a whole number"),
        ({"settings__cost": None, "settings__keep": {"2": "x"}}, r"keep\[2\] must be a number, got 'x'"),
        ({"settings__cost": None, "settings__keep": [[0.2]]}, r"keep\[0\] must be a number, got \[0.2\]"),
        ({"settings__stages": []}, "stages must be 'auto' or"),
        ({"settings__stages": {"0": 1}}, "stages must be 'auto' or"),
        ({"settings__stages": [[0, 1], [0.5, "x"]]}, r"the share of stages\[1\] must be a number, got 'x'"),
        ({"settings__merging": "yes"}, "merging must be True, False or a Merging, got 'yes'"),
        (
            {"settings__merging": {"ratio": 0.1}},
            "merging has no parameter 'ratio' with this rule; there are s",
        ),
        ({"settings__merging": [1]}, r"merging must be a single value, got \[1\]"),
        ({"settings__merge": True}, "settings has an unknown field 'merge'; known are budget_rule, cost, "),
        ({"settings__images": 1}, "images must be True or False, got 1"),
        ({"settings__segmentation": "shots"}, "segmentation must be one of 'frame-similarity', "),
        ({"settings__segmentation": ["dp"]}, r"segmentation must be a single value, got \['dp'\]"),
        (
            {"settings__segmentation__rule": "shots"},
            "segmentation.rule must be one of .* got 'shots'",
        ),
        ({"settings__segmentation__rule": ...}, "segmentation.rule must be one of .*, got None"),
        (
            {"settings__segmentation__minimum": 3},
            "segmentation has no parameter 'minimum' with this rule",
        ),
        ({"settings__segmentation": {"rule": "single", "threshold": 1}}, "no parameter 'threshold' .*; it has none"),
        (
            {"settings__segmentation": {"rule": "windows", "frames": 1.5}},
            "Windows.frames must be a whole number",
        ),
        ({"settings__segmentation__threshold": [1]}, r"segmentation.threshold must be a single value, got \[1\]"),
        ({"settings__segmentation__threshold": 10**400}, "segmentation has a number that is too large"),
        ({"settings__relevance__sign": 0}, r"Relevance.sign must be \+1"),
        ({"settings__novelty": {}}, "novelty lacks a parameter; there are lower_bound, keep_lower_bound"),
        ({"settings__novelty": {"keep_lower_bound": 0.1}}, "novelty lacks a parameter"),
        ({"settings__selector": "mine"}, "selector must be one of 'dpp', .*, got 'mine'"),
        ({"calibration": 3}, "calibration must be an object, got 3"),
        ({"calibration__floor": "high"}, "calibration.floor must be a number, got 'high'"),
        ({"calibration__floor": True}, "calibration.floor must be a number, got True"),
        ({"calibration__units": 1.5}, "calibration.units must be a whole number, got 1.5"),
        ({"calibration__model": None}, "calibration.model must be a text, got None"),
        ({"calibration__unit": "frame"}, "calibration.unit must be one of 'video', 'question', got 'frame'"),
        ({"calibration__unit": ["video"]}, "calibration.unit must be one of"),
        ({"calibration__date": "today"}, "calibration has an unknown field 'date'"),
        ({"calibration__data": ...}, "calibration has no 'data'"),
        ({"calibration__budgets": {}}, "calibration.budgets must be a list, got {}"),
        ({"calibration__budgets__0__outcome": "fine"}, r"calibration.budgets\[0\].outcome must be one of 'holds'"),
        ({"calibration__budgets__1__lower": "x"}, r"calibration.budgets\[1\].lower must be a number, got 'x'"),
        ({"calibration__budgets__1__needed": ...}, r"calibration.budgets\[1\] has no 'needed'"),
    ],
)
def test_what_is_wrong_is_named_with_the_file(tmp_path, changes, message):
    path = written(tmp_path, **changes)
    with pytest.raises(SettingsFileError, match=message) as raised:
        read(path)
    assert str(raised.value).startswith(f"{path}: ")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "line 1 is no JSON: Expecting value"),
        ('{"schema": 1,\n"settings": {"keep" 0.2}}', "line 2 is no JSON: Expecting ':' delimiter"),
        ('{"schema": 1, "settings": {"keep": 0.2, "keep": 0.3}}', "is no JSON of settings: 'keep' is there twice"),
        ('{"schema": 1, "settings": {"keep": NaN}}', "is no JSON of settings: NaN is no number"),
        ('{"schema": 1, "settings": {"keep": -Infinity}}', "-Infinity is no number"),
        ("[" * 100_000, "is no JSON of settings: it is nested too deeply"),
        ("[1]", "it is no settings file, which is an object with "),
        ('{"keep": 0.2}', "it is no settings file, which is an object with "),
        ('{"schema": 1, "settings": {"cost": 1e999}}', r"cost must be in \(0, 1\], got inf"),
        (b"\xff\xfe", "is no UTF-8 text"),
    ],
)
def test_what_is_no_settings_file_is_refused(tmp_path, text, message):
    path = tmp_path / "settings.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(SettingsFileError, match=message) as raised:
        read(path)
    assert str(raised.value).startswith(str(path))


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(SettingsFileError, match=r"cannot read .*none\.json: No such file or directory"):
        load_settings(tmp_path / "none.json")
    with pytest.raises(SettingsFileError, match=r"cannot read .*: Is a directory"):
        load_settings(tmp_path)


def test_a_place_that_cannot_be_written(tmp_path):
    with pytest.raises(SettingsFileError, match=r"cannot write .*: No such file or directory"):
        save_settings(tmp_path / "none" / "settings.json", FrameFusion())
    with pytest.raises(SettingsFileError, match=r"cannot write .*: Is a directory"):
        save_settings(tmp_path, FrameFusion())
    assert list(tmp_path.iterdir()) == []
    assert not tmp_path.with_name(f"{tmp_path.name}.new").exists()


def test_settings_from_plain_values():
    assert from_plain(to_plain(FrameFusion(keep=(0.2, {3: 0.5})))) == FrameFusion(keep=(0.2, {3: 0.5}))
    with pytest.raises(ValueError, match="settings must be an object, got None"):
        from_plain(None)


def test_attach_takes_what_was_read(tmp_path):
    assert framefusion.load_settings is load_settings
    path = tmp_path / "settings.json"
    save_settings(path, FrameFusion(keep=0.25))
    with framefusion.attach(models.build("llava_onevision").model, load_settings(path)) as run:
        assert run.settings == FrameFusion(keep=0.25)


FIRST = {
    "cost": None,
    "keep": {"0": 0.5, "2": 0.2},
    "merge": False,
    "similarity_lower_bound": 0.7,
    "ratio_lower_bound": 0.2,
    "segmentation": "single",
    "segment_threshold": None,
    "segment_minimum": 5,
    "segment_window": 3,
    "budget_rule": "uniform",
    "relevance": "last",
    "relevance_sign": -1,
    "relevance_exponent": 0.5,
    "selector": "dpp",
    "gamma": 0.5,
    "later_frames": 0.8,
    "novelty_lower_bound": None,
    "keep_lower_bound": 0.0,
    "dropped": "drop",
    "seed": 3,
    "images": False,
}
"""Complete settings as schema 1 had them before stages and the bound of dropped tokens were fields."""


@pytest.mark.parametrize(
    ("changes", "rules"),
    [
        ({}, {}),
        ({"merge": True}, {"merging": Merging(0.7, 0.2)}),
        (
            {"segmentation": "frame-similarity", "segment_threshold": 0.3},
            {"segmentation": FrameSimilarity(0.3, similarity_lower_bound=0.7)},
        ),
        ({"segmentation": "dyseg", "segment_threshold": 0.85}, {"segmentation": DySeg(0.85, minimum=5)}),
        ({"segmentation": "dp", "segment_threshold": 0.75}, {"segmentation": DynamicProgramming(0.75, None)}),
        ({"segmentation": "windows"}, {"segmentation": Windows(3)}),
        ({"dropped": "merge"}, {"dropped": Absorb(0.7)}),
        ({"dropped": "merge", "dropped_lower_bound": 0.8}, {"dropped": Absorb(0.8)}),
        ({"selector": "dpp-once"}, {"selector": DPPOnce(0.5, 0.8)}),
        ({"selector": "topk"}, {"selector": "topk"}),
        ({"novelty_lower_bound": 0.1, "keep_lower_bound": 0.05}, {"novelty": Novelty(0.1, 0.05)}),
    ],
)
def test_a_file_of_the_first_schema_means_what_it_meant(tmp_path, changes, rules):
    keep = {1: 0.5, 2: 0.2} if rules.get("selector") == "topk" else {0: 0.5, 2: 0.2}
    plain = FIRST | changes | {"keep": {str(layer): share for layer, share in keep.items()}}
    path = tmp_path / "settings.json"
    path.write_text(json.dumps({"schema": 1, "settings": plain}))
    meant = {
        "segmentation": "single",
        "budget_rule": "uniform",
        "relevance": Relevance("last", -1, 0.5),
        "selector": DPP(0.5, 0.8),
        "dropped": "drop",
    }
    assert load_settings(path) == FrameFusion(keep=keep, seed=3, images=False, **(meant | rules))


def test_what_the_first_schema_cannot_say_is_named(tmp_path):
    path = tmp_path / "settings.json"
    for changes, message in [
        ({"relevance": "all"}, "relevance must be one of 'late-text', .* got 'all'"),
        ({"merging": None}, "settings has an unknown field 'merging'"),
        ({"segmentation": "dyseg", "segment_minimum": 0}, "segment_minimum: DySeg.minimum must be a whole number"),
    ]:
        path.write_text(json.dumps({"schema": 1, "settings": FIRST | changes}))
        with pytest.raises(SettingsFileError, match=message):
            load_settings(path)


def test_complete_settings_from_before_the_kernel_had_a_choice_stay_what_they_were():
    older = {name: value for name, value in FIRST.items() if name not in ("gamma", "later_frames")}
    assert from_flat(older) == from_flat(FIRST | {"gamma": None, "later_frames": 1.0})
    del older["seed"]
    assert from_flat(older).selector == DPP()
    meant = {**older, "seed": 0, "keep": None, "cost": 0.3}
    with pytest.raises(ValueError, match="cost: these settings were written when cost meant three stages"):
        from_flat(meant)
    assert from_flat({**meant, "merge": True}).cost == 0.3


def test_complete_settings_from_before_sudden_changes_stay_what_they_were():
    older = to_plain(FrameFusion())
    del older["segmentation"]["sudden"]
    assert from_plain(older) == FrameFusion(segment_sudden=None)
    assert from_plain({"segmentation": {"rule": "dp", "threshold": 0.7}}) == FrameFusion(segment_threshold=0.7)
    assert from_plain(to_plain(FrameFusion())) == FrameFusion()
    cut = FIRST | {"segmentation": "dp"}
    assert from_flat(cut).segmentation == DynamicProgramming(sudden=None)
    assert from_flat({"segmentation": "dp"}).segmentation == DynamicProgramming()


def test_the_bound_of_dropped_tokens_was_that_of_similar_ones():
    assert from_flat({"dropped": "merge", "similarity_lower_bound": 0.7}).dropped == Absorb(0.7)
    assert from_flat({"dropped": "merge"}).dropped == Absorb()
    given = {"dropped": "merge", "similarity_lower_bound": 0.7, "dropped_lower_bound": 0.8}
    assert from_flat(given).dropped == Absorb(0.8)


def test_complete_settings_from_before_the_stages_could_be_chosen_stay_what_they_were(monkeypatch):
    older = FIRST | {"keep": None, "cost": 0.3}
    monkeypatch.setattr(settings_module, "STAGES", ((0.0, 1.0),))
    assert from_flat(older).steps == ((0.0, 1.0), (2 / 3, 0.25))
    assert from_flat({"cost": 0.3}).steps == from_plain({"cost": 0.3}).steps == ((0.0, 1.0),)
