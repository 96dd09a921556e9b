"""Loading: what comes back, and one clear sentence for everything that cannot be loaded."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from framefusion.asking import loading
from framefusion.asking.loading import ModelError, load
from tests import tiny_checkpoints


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    root = tmp_path_factory.mktemp("checkpoints")
    return {name: save(root / name) for name, save in tiny_checkpoints.SAVE.items()}


@pytest.fixture
def copy(checkpoints, tmp_path):
    return shutil.copytree(checkpoints["qwen2-vl"], tmp_path / "copy")


@pytest.mark.parametrize("family", list(tiny_checkpoints.SAVE))
def test_loads_each_family(checkpoints, family):
    loaded = load(checkpoints[family])
    assert not loaded.model.training
    assert hasattr(loaded.processor, "video_processor")
    assert loaded.name == str(checkpoints[family])
    assert (loaded.dtype, loaded.attention) == ("float32", "sdpa")
    assert loaded.device.startswith("cuda" if torch.cuda.is_available() else "cpu")


def test_options_reach_the_model(checkpoints):
    loaded = load(checkpoints["llava-onevision"], dtype="bf16", attn="eager", device="cpu")
    assert loaded.model.dtype == torch.bfloat16
    assert (loaded.dtype, loaded.attention, loaded.device) == ("bfloat16", "eager", "cpu")


def test_bundled_is_the_default(checkpoints, monkeypatch):
    monkeypatch.setitem(loading.BUNDLED, "bundled", checkpoints["llava-onevision"])
    assert load().name == "bundled"


def refuse(message, *args, **kwargs):
    with pytest.raises(ModelError, match=message) as caught:
        load(*args, **kwargs)
    assert "\n" not in str(caught.value)


def test_directories_that_are_no_models(tmp_path):
    refuse("is not a model: it has no config.json", tmp_path)
    refuse("there is no directory", tmp_path / "gone")
    refuse("there is no directory ./gone", "./gone")


def test_unreachable_hub_id(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    refuse("'nobody/nothing' is no directory and could not be fetched", "nobody/nothing")
    refuse("'not a valid id!' is no directory and could not be fetched", "not a valid id!")


@pytest.mark.parametrize("content", ["{", '{"model_type": "unheard-of"}', "{}"])
def test_unusable_configuration(copy, content):
    (copy / "config.json").write_text(content)
    refuse("configuration of .* cannot be", copy)


@pytest.mark.parametrize("model_type", ["bert", "llava_next"])
def test_unsupported_family_lists_the_supported(copy, model_type):
    (copy / "config.json").write_text(json.dumps({"model_type": model_type}))
    refuse(
        f"family '{model_type}', which is not supported; supported: LLaVA-OneVision, LLaVA-NeXT-Video, Qwen2-VL", copy
    )


def test_pickled_weights_are_refused(copy):
    weights = load_file(copy / "model.safetensors")
    (copy / "model.safetensors").unlink()
    refuse("has no weights in safetensors format$", copy)
    torch.save(weights, copy / "pytorch_model.bin")
    refuse("safetensors format, only pytorch_model.bin", copy)


def test_pickled_weights_are_refused_where_no_directory_tells(copy, monkeypatch):
    """As from the hub, where the loader decides which file it fetches."""
    torch.save(load_file(copy / "model.safetensors"), copy / "pytorch_model.bin")
    (copy / "model.safetensors").unlink()
    monkeypatch.setattr(loading, "_check_weights", lambda directory: None)
    refuse(r"cannot be loaded: .*model\.safetensors", copy)


def test_damaged_and_incomplete_weights(copy):
    path = copy / "model.safetensors"
    # copies: the loaded tensors are views of the file, which is about to be cut
    weights = {name: tensor.clone() for name, tensor in load_file(path).items()}
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    refuse("weights of .* are damaged", copy)
    del weights["lm_head.weight"]
    save_file(weights, path, metadata={"format": "pt"})
    refuse(r"incomplete: 1 tensors are missing, the first is lm_head\.weight", copy)


def test_missing_processor(copy):
    for path in copy.iterdir():
        if path.name not in ("config.json", "model.safetensors"):
            path.unlink()
    refuse(r"no usable processor|tokenizer only", copy)


def test_bad_options(checkpoints):
    model = checkpoints["qwen2-vl"]
    refuse("dtype must be one of auto, float32, .* got 'int8'", model, dtype="int8")
    refuse("device 'toaster' cannot be used here", model, device="toaster")
    refuse("cannot be loaded: .*nonsense", model, attn="nonsense")


def test_remote_code_stays_off_unless_trusted(copy):
    config = json.loads((copy / "config.json").read_text())
    config["auto_map"] = {"AutoConfig": "danger.Config"}
    config["model_type"] = "danger"
    (copy / "config.json").write_text(json.dumps(config))
    (copy / "danger.py").write_text("raise SystemExit('this code was run')\n")
    refuse("configuration of .* cannot be used", copy)
