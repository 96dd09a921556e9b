"""What an engine says when it starts, and what it refuses."""

from __future__ import annotations

import logging
import pickle
from typing import Any

import pytest
import torch
import vllm
from vllm import EngineArgs

import framefusion.vllm.hooks as hooks
from framefusion.assets import BUNDLED
from framefusion.reduction.settings import FrameFusion
from framefusion.reduction.settings_file import save_settings
from framefusion.vllm import register
from framefusion.vllm.models import FAMILIES, QWEN_2_5, QWEN_3
from framefusion.vllm.rate import Rate
from framefusion.vllm.selection import retained_count
from framefusion.vllm.settings import ServingSettings
from tests.tiny_checkpoints import save_qwen2_vl

QWEN = BUNDLED["bundled-qwen"]


def configuration(settings: Any = None, rate: float | None = 0.8, model: Any = QWEN, **options: Any) -> Any:
    extra = {} if settings is None else {"additional_config": {"framefusion": settings}}
    return EngineArgs(
        str(model), video_pruning_rate=rate, enforce_eager=True, **extra, **options
    ).create_engine_config()


@pytest.fixture(autouse=True)
def heard(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    monkeypatch.setattr(logging.getLogger("vllm"), "propagate", True)
    caplog.set_level(logging.INFO)
    return caplog


def test_nothing_changes_until_it_is_asked_for(heard) -> None:
    from vllm.model_executor.models import qwen2_5_vl
    from vllm.multimodal.video_prune import evs

    config = configuration(None)
    assert type(config.model_config.multimodal_config.video_pruning_rate) is float
    assert "framefusion" not in heard.text
    # The stock count goes on for every engine with a plain rate, hooked or not.
    hooks.install(QWEN_2_5)
    assert qwen2_5_vl.compute_retained_tokens_count(64, 8, 0.8) == evs.compute_retained_tokens_count(64, 8, 0.8) == 102


def test_the_configuration_carries_the_rule(heard) -> None:
    from vllm.model_executor.models import qwen2_5_vl

    config = configuration({"segmentation": "dp"})
    multimodal = config.model_config.multimodal_config
    rule = "segmentation=DynamicProgramming(threshold=0.8, sudden=4.0)"
    assert f"framefusion selects video tokens: rate 0.8, {rule}" in heard.text
    for one in (multimodal, pickle.loads(pickle.dumps(config)).model_config.multimodal_config):
        rate = one.video_pruning_rate
        assert isinstance(rate, Rate)
        assert rate == 0.8
        assert rate.settings == ServingSettings(segmentation="dp")
        assert one.get_video_pruning_spec()[1] is rate
        assert qwen2_5_vl.compute_retained_tokens_count(64, 16, rate) == retained_count(64, 16, 0.8, rate.settings)


def test_the_rate_may_stand_beside_the_rule() -> None:
    """Then nothing is pruned where the plugin is missing."""
    multimodal = configuration({"rate": 0.8, "segmentation": "dp"}, None).model_config.multimodal_config
    assert multimodal.video_pruning_rate == 0.8
    assert multimodal.is_multimodal_pruning_enabled()
    assert multimodal.video_pruning_rate.settings == ServingSettings(segmentation="dp")


def test_the_configuration_of_a_drafter_is_left_alone(tmp_path) -> None:
    from types import SimpleNamespace

    config = configuration({})
    drafter = SimpleNamespace(architecture="Qwen2ForCausalLM")
    made = SimpleNamespace(
        additional_config=config.additional_config,
        model_config=drafter,
        speculative_config=SimpleNamespace(draft_model_config=drafter),
    )
    hooks._enable(made)


def test_a_model_without_a_rate_keeps_its_methods() -> None:
    """Classes outside this package inherit the methods."""
    from framefusion.vllm.qwen import recompute

    assert recompute(lambda self, *args: "stock")(object()) == "stock"
    pruned = type(
        "Model", (), {"video_pruning_rate": Rate(0.0, ServingSettings(), "Qwen3VLForConditionalGeneration")}
    )()
    assert recompute(lambda self, *args: "stock")(pruned) == "stock"


def test_registering_again_and_a_rate_of_zero(heard) -> None:
    register()
    register()
    configuration({}, 0.0)
    assert heard.text.count("framefusion selects video tokens: rate 0.0") == 1
    assert "(rate 0: nothing is pruned)" in heard.text


def test_a_settings_file_brings_its_rate(heard, tmp_path) -> None:
    path = str(tmp_path / "settings.json")
    save_settings(path, FrameFusion(keep={0: 0.25}, dropped="drop"))
    for rate in (None, 0.75):
        config = configuration({"settings_file": path}, rate)
        assert config.model_config.multimodal_config.video_pruning_rate == 0.75
    with pytest.raises(
        ValueError, match=r"the settings say rate 0.75, --video-pruning-rate 0.8; leave one of them out"
    ):
        configuration({"settings_file": path}, 0.8)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"settings": {"segmentations": "dp"}}, r"additional_config\['framefusion'\]: 'segmentations' is no setting"),
        ({"settings": 3}, "must be an object of settings or true, got 3"),
        (
            {"settings": {}, "rate": None},
            'says how to prune, but not how much: add "rate": 0.8, or --video-pruning-rate 0.8',
        ),
        ({"settings": {}, "pipeline_parallel_size": 2}, "with pipeline parallelism only the first rank learns"),
        ({"settings": {"rate": 0.5}}, "the settings say rate 0.5, --video-pruning-rate 0.8; leave one of them out"),
        ({"settings": {}, "rate": 1.0}, "video_pruning_rate"),
        ({"settings": {}, "rate": -0.1}, "video_pruning_rate"),
    ],
)
def test_what_makes_no_sense_does_not_start(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        configuration(**arguments)


def test_a_model_without_a_rule_of_ours_is_refused(tmp_path) -> None:
    with pytest.raises(ValueError, match=r"framefusion prunes in vLLM for Qwen2_5_VL.*; this model is Qwen2VL"):
        configuration({}, model=save_qwen2_vl(tmp_path))


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A process in which no hook is in yet; they come back afterwards."""
    from pkgutil import resolve_name

    for need in [need for family in (QWEN_2_5, QWEN_3) for need in hooks.needs_of(family) if need.around]:
        owner = resolve_name(need.where)
        stock = vars(owner)[need.name]
        monkeypatch.setattr(owner, need.name, getattr(stock, "__wrapped__", stock))
    hooks._warn_of_version.cache_clear()
    return monkeypatch


@pytest.mark.parametrize("version", ["0.31.2", "0.33.0", "1.0.0+cpu"])
def test_another_version_runs_with_one_warning(bare, heard, version: str) -> None:
    bare.setattr(vllm, "__version__", version)
    configuration(None)
    assert "tested" not in heard.text
    for _ in range(2):
        assert isinstance(configuration({}).model_config.multimodal_config.video_pruning_rate, Rate)
    assert heard.text.count(f"framefusion was tested with vLLM 0.32, not with {version}") == 1


def test_a_model_that_was_not_run_brings_one_warning(bare, heard) -> None:
    bare.setattr(hooks, "RUN", {"Qwen3VLForConditionalGeneration"})
    hooks._warn_of_model.cache_clear()
    for _ in range(2):
        configuration({})
    said = "tested with Qwen3VLForConditionalGeneration, not with Qwen2_5_VLForConditionalGeneration, which inherits"
    assert heard.text.count(said) == 1


def test_the_tested_version_runs_without_a_word(bare, heard) -> None:
    assert vllm.__version__.startswith(hooks.TESTED)
    configuration({})
    assert "tested" not in heard.text


def test_a_missing_part_does_not_start_and_leaves_nothing_behind(bare) -> None:
    from vllm.model_executor.models import qwen2_5_vl, qwen3_vl

    stock = qwen2_5_vl.compute_retained_tokens_count
    bare.delattr(qwen3_vl.Qwen3VLForConditionalGeneration, "_get_expanded_positions")
    # What one family lacks is no loss to another.
    hooks.install(QWEN_2_5)
    assert qwen2_5_vl.compute_retained_tokens_count is not stock
    stock = qwen3_vl.compute_retained_tokens_count
    with pytest.raises(hooks.HookError, match=r"has no vllm.*Qwen3VLForConditionalGeneration._get_expanded_positions"):
        hooks.install(QWEN_3)
    assert qwen3_vl.compute_retained_tokens_count is stock


@pytest.mark.parametrize(
    ("where", "name"),
    [
        ("vllm.model_executor.models.qwen2_5_vl.Qwen2_5_VLForConditionalGeneration", "iter_mm_grid_thw"),
        ("vllm.utils.gpu_sync_debug", "gpu_sync_allowed"),
        ("vllm.v1.worker.cpu_model_runner.CPUModelRunner", "load_model"),
    ],
)
def test_a_part_that_is_only_used_is_looked_at_too(bare, where: str, name: str) -> None:
    from pkgutil import resolve_name

    bare.delattr(resolve_name(where), name)
    with pytest.raises(hooks.HookError, match=rf"has no {where}.{name}, which framefusion needs"):
        configuration({})


def test_a_changed_hook_does_not_start(bare) -> None:
    from vllm.model_executor.models import qwen2_5_vl

    bare.setattr(qwen2_5_vl, "compute_retained_tokens_count", lambda tokens_per_frame, num_frames: 1)
    with pytest.raises(hooks.HookError, match=r"takes \(tokens_per_frame, num_frames\); framefusion knows it with"):
        configuration({})


def test_a_class_with_a_method_of_its_own_does_not_serve() -> None:
    from pkgutil import resolve_name

    base = resolve_name(QWEN_3.base)
    hooks._check_inherited(type("Heir", (base,), {}), QWEN_3)
    with pytest.raises(hooks.HookError, match="Own of this vLLM has a recompute_mrope_positions of its own"):
        hooks._check_inherited(type("Own", (base,), {"recompute_mrope_positions": None}), QWEN_3)
    with pytest.raises(hooks.HookError, match=r"Qwen3VL.* is no vllm.*Qwen2_5_VL"):
        hooks._check_inherited(base, QWEN_2_5)


def test_every_class_that_can_be_loaded_here_inherits_what_is_replaced() -> None:
    from vllm import ModelRegistry

    for architecture, family in FAMILIES.items():
        if architecture in ModelRegistry.get_supported_archs():
            hooks._check_inherited(ModelRegistry.models[architecture].load_model_cls(), family)


def test_a_model_that_lost_the_rate_does_not_serve() -> None:
    class Runner:
        vllm_config = configuration({})

        device = torch.device("cpu")

        def load_model(self) -> None: ...

        def get_model(self) -> Any:
            return type("Model", (), {"video_pruning_rate": 0.8})()

    with pytest.raises(hooks.HookError, match=r"did not get framefusion's rate \(0.8 instead\)"):
        hooks._checked_load(Runner.load_model)(Runner())
