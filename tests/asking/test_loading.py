"""Loading: what comes back, and one clear sentence for everything that cannot be loaded."""

import json
import shutil
import sys
from types import SimpleNamespace

import pytest
import torch
import transformers
from huggingface_hub.utils import (
    are_progress_bars_disabled,
    disable_progress_bars,
    enable_progress_bars,
    get_session,
)
from safetensors.torch import load_file, save_file

from framefusion.asking import loading
from framefusion.asking.loading import ModelError, load, load_skeleton
from framefusion.hf import families
from tests import family_checkpoints, tiny_checkpoints


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
    refuse("'no one/not valid!' is no directory and could not be fetched", "no one/not valid!")


@pytest.mark.parametrize("downloads", [True, False])
@pytest.mark.parametrize("bars", [True, False])
def test_no_bar_is_left_behind_an_answer(copy, capfd, monkeypatch, bars, downloads):
    shown = []
    from_pretrained = transformers.AutoModelForMultimodalLM.from_pretrained

    def noted(*args, **kwargs):
        shown.append(not are_progress_bars_disabled())
        return from_pretrained(*args, **kwargs)

    monkeypatch.setattr(transformers.AutoModelForMultimodalLM, "from_pretrained", noted)
    (transformers.logging.enable_progress_bar if bars else transformers.logging.disable_progress_bar)()
    (enable_progress_bars if downloads else disable_progress_bars)()
    try:
        load(copy)
        (copy / "model.safetensors").write_bytes(b"no weights")
        with pytest.raises(ModelError):
            load(copy)
        now = transformers.logging.is_progress_bar_enabled(), not are_progress_bars_disabled()
    finally:
        transformers.logging.enable_progress_bar()
    assert "Loading weights" not in capfd.readouterr().err
    assert (now, shown) == ((bars, downloads), [downloads, downloads])


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """What is asked of a hub that cannot be reached."""
    asked = []
    # httpx or httpx2, by the release of the hub's client.
    client = sys.modules[type(get_session()).__module__.split(".")[0]]
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))

    def metadata(url, *, timeout):
        asked.append(url)
        raise client.ConnectError("Name or service not known")

    monkeypatch.setattr("huggingface_hub.get_hf_file_metadata", metadata)
    monkeypatch.setattr(transformers.AutoConfig, "from_pretrained", failing("the client's words"))
    return asked


def failing(reason):
    def fail(*args, **kwargs):
        raise OSError(reason)

    return fail


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("bundled-quen", "did you mean 'bundled-qwen'[?]"),
        ("Bundle", "did you mean 'bundled'[?]"),
        ("llava", "bundled are 'bundled', 'bundled-qwen'"),
    ],
)
def test_a_name_that_is_no_hub_id_is_refused_without_a_network(hub, name, meant):
    for made in (load, load_skeleton):
        with pytest.raises(ModelError, match=f"model '{name}' is no directory, .* which is owner/name; {meant}"):
            made(name)
    assert hub == []


def test_a_hub_that_cannot_be_reached_is_asked_once(hub, caplog):
    refuse("'nobody/nothing' is no directory, and the .* hub cannot be reached: Name or service", "nobody/nothing")
    assert hub == ["https://huggingface.co/nobody/nothing/resolve/main/config.json"]
    assert caplog.messages == ["nobody/nothing is not on this machine; asking the Hugging Face hub"]


def test_what_the_hub_answers_is_told_by_its_client(hub, monkeypatch, caplog):
    monkeypatch.setattr("huggingface_hub.get_hf_file_metadata", failing("there is no such model"))
    refuse("could not be fetched from the Hugging Face hub: the client's words", "nobody/nothing")
    assert len(caplog.messages) == 1


def test_the_hub_is_not_asked_for_what_is_there(hub, monkeypatch, caplog):
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda repo, file: f"cache/{file}")
    refuse("the client's words", "nobody/nothing")
    assert (hub, caplog.messages) == ([], [])


@pytest.mark.parametrize("content", ["{", '{"model_type": "unheard-of"}', "{}"])
def test_unusable_configuration(copy, content):
    (copy / "config.json").write_text(content)
    refuse("configuration of .* cannot be", copy)


@pytest.mark.parametrize(("model_type", "because"), [("bert", ""), ("mllama", ": its text attends .* decoder")])
def test_unsupported_family_lists_the_supported(copy, model_type, because):
    (copy / "config.json").write_text(json.dumps({"model_type": model_type}))
    refuse(
        f"family '{model_type}', which is not supported{because}; supported: LLaVA-OneVision, LLaVA-NeXT-Video, "
        "Qwen2-VL",
        copy,
    )


@pytest.mark.parametrize("layers", [{"num_experts": 2, "moe_intermediate_size": 16}, {"intermediate_size": 16}])
def test_a_checkpoint_of_qwen3_6(tmp_path, layers):
    """Its configuration is that of Qwen3.5: the same classes, three layers of linear attention to each other one."""
    kind = "qwen3_5_moe" if "num_experts" in layers else "qwen3_5"
    rope = {"mrope_interleaved": True, "mrope_section": [2, 1, 1], "partial_rotary_factor": 0.5, "rope_theta": 1e7}
    text = {
        **layers,
        "model_type": f"{kind}_text",
        "vocab_size": 64,
        "hidden_size": 32,
        "head_dim": 16,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "num_hidden_layers": 4,
        "layer_types": ["linear_attention"] * 3 + ["full_attention"],
        "linear_key_head_dim": 8,
        "linear_value_head_dim": 8,
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 4,
        "rope_parameters": {"rope_type": "default", **rope},
    }
    vision = {"model_type": kind, "depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2}
    classes = {"qwen3_5": "Qwen3_5ForConditionalGeneration", "qwen3_5_moe": "Qwen3_5MoeForConditionalGeneration"}
    config = {"model_type": kind, "architectures": [classes[kind]], "text_config": text}
    config["vision_config"] = {**vision, "out_hidden_size": 32, "num_position_embeddings": 16}
    family_checkpoints.processor(kind).save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(config))
    loaded = load_skeleton(tmp_path)
    assert type(loaded.model).__name__ == classes[kind]
    assert families.find(loaded.model).name == {"qwen3_5": "Qwen3.5", "qwen3_5_moe": "Qwen3.5-MoE"}[kind]


@pytest.mark.parametrize(
    ("auto_map", "expected"),
    [
        (None, "AutoModelForMultimodalLM"),
        ({"AutoModelForMultimodalLM": "a.B"}, "AutoModelForMultimodalLM"),
        ({"AutoModelForImageTextToText": "a.B"}, "AutoModelForImageTextToText"),
    ],
)
def test_the_auto_class_of_model_cards(auto_map, expected):
    """A checkpoint's own code may name the older one."""
    assert loading._auto_class(SimpleNamespace(auto_map=auto_map)).__name__ == expected


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
