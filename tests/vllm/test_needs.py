"""What releases of vLLM have of what framefusion needs, by the extracts that scripts/vllm_needs.py wrote."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest

from framefusion.vllm.hooks import needs_of
from framefusion.vllm.models import FAMILIES, NEMOTRON, QWEN_3, REFUSED, Family, family_of
from framefusion.vllm.needs import Need
from scripts.vllm_needs import extract

HOME = Path(__file__).parent / "needs"
EXTRACTS = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(HOME.glob("*.json"))}
BASE = QWEN_3.base


def test_there_are_the_tested_release_and_the_newest() -> None:
    assert {"vllm-0.32.0", "vllm-0.33.0"} <= set(EXTRACTS)


@pytest.fixture(params=EXTRACTS.values(), ids=EXTRACTS)
def release(request: pytest.FixtureRequest) -> dict[str, Any]:
    return request.param


def complaints(release: dict[str, Any], family: Family) -> list[str]:
    parts = release["parts"]
    said = [need.complaint(need.path in parts, parts.get(need.path)) for need in needs_of(family)]
    return [one for one in said if one]


def test_every_part_is_there_with_its_parameters(release: dict[str, Any]) -> None:
    for family in FAMILIES.values():
        assert not complaints(release, family)


def line(release: dict[str, Any], model: str) -> list[str]:
    """A class and those it inherits from, as far as they prune."""
    found = [model]
    for name in found:
        found += [base for base in release["models"].get(name, {"bases": []})["bases"] if base in release["models"]]
    return found


def test_the_classes_inherit_what_is_replaced(release: dict[str, Any]) -> None:
    for architecture, family in FAMILIES.items():
        if architecture not in release["architectures"]:
            continue
        base = family.base.rpartition(".")[2]
        ancestors = line(release, release["architectures"][architecture])
        assert base in ancestors
        methods = {need.name for need in family.needs if need.where == family.base}
        for name in ancestors[: ancestors.index(base)]:
            assert not methods.intersection(release["models"][name]["defines"]), name


def test_every_model_with_a_rule_of_its_own_is_pruned_or_refused_with_a_reason(release: dict[str, Any]) -> None:
    """A model that a release lets prune is never merely forgotten."""
    served = set(release["architectures"])
    assert not FAMILIES.keys() & REFUSED.keys()
    assert not served - FAMILIES.keys() - REFUSED.keys()
    # And every class of those is one that the registry names.
    assert set(release["models"]) - set(release["architectures"].values()) == set()


def test_only_what_a_new_release_brings_is_missing_in_an_old_one() -> None:
    newest = set(EXTRACTS[max(EXTRACTS)]["architectures"])
    assert newest == FAMILIES.keys() | REFUSED.keys()


@pytest.mark.parametrize("rotates", [True, False])
def test_the_family_of_an_architecture(rotates: bool) -> None:
    assert family_of("NemotronH_Nano_VL_V2", rotates) is NEMOTRON
    for architecture in REFUSED:
        with pytest.raises(ValueError, match=f"does not prune {architecture}: it"):
            family_of(architecture, rotates)
    with pytest.raises(ValueError, match=r"prunes in vLLM for Qwen2_5_VL.*; this model is LlamaForCausalLM"):
        family_of("LlamaForCausalLM", rotates)
    with pytest.raises(ValueError, match="this model is None"):
        family_of(None, rotates)
    if rotates:
        assert family_of("Qwen3_5MoeForConditionalGeneration", rotates) is QWEN_3
    else:
        with pytest.raises(ValueError, match=r"does not prune this Qwen3_5Moe.*: its decoder has"):
            family_of("Qwen3_5MoeForConditionalGeneration", rotates)


def test_what_is_said_of_a_part() -> None:
    need = Need("engine.models", "count", ("a", "b"))
    assert need.complaint(True, ["a", "b"]) is None
    assert need.complaint(False, None) == "this vLLM has no engine.models.count, which framefusion needs."
    assert (
        need.complaint(True, ["a"]) == "engine.models.count of this vLLM takes (a); framefusion knows it with (a, b)."
    )
    assert need.complaint(True, None) == (
        "engine.models.count of this vLLM is no function; framefusion knows it with (a, b)."
    )
    assert Need("engine", "flag").complaint(True, None) is None


def wheel(path: Path, modules: dict[str, str]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in modules.items():
            archive.writestr(name, text)
    return path


def test_the_extract_says_what_the_sources_say(tmp_path: Path) -> None:
    """Imports, re-exports, fields, properties and heirs, in a wheel that only has these."""
    modules = {
        "vllm/utils/gpu_sync_debug.py": "def gpu_sync_allowed(first_only=False): ...",
        "vllm/multimodal/prune/__init__.py": "from .evs import compute_retained_tokens_count",
        "vllm/multimodal/prune/evs.py": "def compute_retained_tokens_count(tokens, *rest, q, **more): ...",
        "vllm/config/model.py": (
            "class ModelConfig:\n    multimodal_config: int = 0\n    @property\n    def uses_mrope(self): ..."
        ),
        "vllm/model_executor/models/qwen3_vl.py": (
            "from vllm.multimodal.prune import compute_retained_tokens_count\n"
            "class Qwen3VLForConditionalGeneration(Module, SupportsMultiModalPruning):\n"
            "    def recompute_mrope_positions(self, ids): ..."
        ),
        "vllm/model_executor/models/heirs.py": (
            "class Heir(Qwen3VLForConditionalGeneration):\n    def _get_expanded_positions(self): ...\n"
            "class Stranger(Module): ..."
        ),
        "vllm/model_executor/models/registry.py": 'TABLE = {"HeirArch": ("heirs", "Heir"), "Other": ("o", "Stranger")}',
    }
    found = extract(wheel(tmp_path / "vllm-9.8.7-py3-none-any.whl", modules))
    assert found["version"] == "9.8.7"
    assert found["parts"] == {
        "vllm.utils.gpu_sync_debug.gpu_sync_allowed": ["first_only"],
        "vllm.model_executor.models.qwen3_vl.compute_retained_tokens_count": ["tokens", "rest", "q", "more"],
        "vllm.config.model.ModelConfig.multimodal_config": None,
        "vllm.config.model.ModelConfig.uses_mrope": None,
        f"{BASE}.recompute_mrope_positions": ["self", "ids"],
    }
    assert found["architectures"] == {"HeirArch": "Heir"}
    assert found["models"]["Heir"] == {
        "where": ["vllm.model_executor.models.heirs"],
        "bases": ["Qwen3VLForConditionalGeneration"],
        "defines": ["_get_expanded_positions"],
    }
    said = complaints(found, QWEN_3)
    assert f"this vLLM has no {BASE}._get_expanded_positions, which framefusion needs." in said
    assert any(one.startswith(f"{BASE}.recompute_mrope_positions of this vLLM takes (self, ids);") for one in said)
