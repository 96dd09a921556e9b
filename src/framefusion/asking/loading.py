"""Load a model and its processor from a directory or the Hugging Face hub, safely and with clear errors."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from inspect import signature
from pathlib import Path
from typing import Any

import huggingface_hub
import torch
import transformers
from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

from framefusion.assets import BUNDLED, DEFAULT_MODEL
from framefusion.errors import ArgumentTypeError, FrameFusionError
from framefusion.hf.families import FAMILIES, find, known_class, unwrapped
from framefusion.hf.families.refused import REFUSED
from framefusion.hf.frame_groups import encode_in_groups

logger = logging.getLogger(__name__)

DTYPES = {
    "auto": "auto",
    "float32": torch.float32,
    "fp32": torch.float32,
    "bfloat16": torch.bfloat16,
    "bf16": torch.bfloat16,
    "float16": torch.float16,
    "fp16": torch.float16,
}


_NEAR = 0.75
"""How alike a name must be to a bundled one to be taken for a slip, 0 … 1."""

_CONFIG = "config.json"

_HUB_SECONDS = 10.0
"""How long the hub may take to answer."""


class ModelError(FrameFusionError, ValueError):
    """A model that cannot be loaded. The text is one sentence that says why."""


@dataclass(frozen=True)
class LoadedModel:
    """A model ready to answer.

    Attributes:
        model: the ``transformers`` model, in evaluation mode; unmodified but for ``tower_frames``.
        processor: its processor (tokenizer, video processor, chat template).
        name: what was loaded: the directory, the hub id, or the name of a bundled checkpoint.
        dtype: of the weights, such as ``"float32"``.
        device: such as ``"cpu"`` or ``"cuda:0"``.
        attention: name of the attention implementation, such as ``"sdpa"``.
    """

    model: Any
    processor: Any
    name: str
    dtype: str
    device: str
    attention: str


def load(
    model: str | os.PathLike[str] | None = None,
    *,
    dtype: str = "auto",
    device: str | None = None,
    attn: str | None = None,
    trust_remote_code: bool = False,
    tower_frames: int | None = None,
) -> LoadedModel:
    """Load a supported video LLM. Weights are read from safetensors only.

    Args:
        model: a directory, a hub id, or a name in :data:`framefusion.assets.BUNDLED`; default its first.
        dtype: ``"auto"`` (as saved), ``"float32"``, ``"bfloat16"`` or ``"float16"`` (``fp32``, ``bf16``,
            ``fp16`` for short).
        device: a torch device; default the first CUDA device if there is one, else the CPU.
        attn: attention implementation (``"sdpa"``, ``"eager"``, ``"flash_attention_2"``, …); default the
            model's own choice.
        trust_remote_code: run code that comes with the checkpoint. Off unless you trust its author.
        tower_frames: frames of a video that the vision encoder is given at once, so that its memory does not grow with
            the video; of a family whose encoder never looks from one frame to another. Default all of them.

    Raises:
        ModelError: unknown or unreachable model, directory without a configuration, unsupported family,
            weights in another format than safetensors, incomplete weights, no processor, unavailable device
            or attention implementation.
    """
    name, source = _source(model, dtype)
    target = _device(device)
    if os.path.isdir(source):
        _check_weights(Path(source))
    config = _config(name, source, trust_remote_code)
    network = _network(name, source, config, dtype, attn, trust_remote_code)
    processor = _processor(name, source, trust_remote_code)
    try:
        network = network.to(target).eval()
    except (RuntimeError, AssertionError) as error:
        raise ModelError(f"model {name!r} does not fit on device {target}: {_sentence(error)}") from error
    if tower_frames is not None:
        try:
            encode_in_groups(network, tower_frames)
        except ValueError as error:
            raise ModelError(f"tower_frames={tower_frames} is not possible: {_sentence(error)}") from error
    return _loaded(network, processor, name)


def ready(model: Any = None, processor: Any = None, **loading: Any) -> LoadedModel:
    """A model to answer with, loaded unless it is.

    Args:
        model: what :func:`load` returned, a Hugging Face model, or what :func:`load` takes.
        processor: of a Hugging Face model.
        loading: of :func:`load`, where it is loaded here.

    Raises:
        ModelError: a loaded model comes without its processor, or options come with what is loaded already; and as
            :func:`load`.
        UnsupportedModelError: a Hugging Face model of no supported family.
    """
    unknown = sorted(set(loading) - set(signature(load).parameters))
    if unknown:
        known = ", ".join(name for name in signature(load).parameters if name != "model")
        raise ArgumentTypeError(f"there is no argument {unknown[0]}; a model is loaded with {known}.")
    if model is None or isinstance(model, (str, os.PathLike)):
        if processor is not None:
            raise ModelError("processor is of a loaded model; one that is named brings its own, leave it out")
        return load(model, **loading)
    if loading:
        raise ModelError(f"{', '.join(loading)}: the model is loaded already; say so where it is loaded")
    if isinstance(model, LoadedModel):
        if processor is not None:
            raise ModelError("processor is of a bare model; what load() returns has its own, leave it out")
        return model
    if not isinstance(model, torch.nn.Module):
        raise ModelError(f"model must be a model or the name of one, got {type(model).__name__}")
    if processor is None:
        raise ModelError("a loaded model needs its processor: processor=AutoProcessor.from_pretrained(…)")
    find(unwrapped(model))
    return _loaded(model, processor, str(getattr(model, "name_or_path", "") or type(model).__name__))


def load_skeleton(
    model: str | os.PathLike[str] | None = None, *, dtype: str = "auto", trust_remote_code: bool = False
) -> LoadedModel:
    """A supported video LLM without its weights: shapes on the meta device, and the processor.

    Only configuration and tokenizer files are read or fetched. The attention is ``"eager"``: all its operations can be
    counted.

    Arguments and errors are those of :func:`load`.
    """
    name, source = _source(model, dtype)
    config = _config(name, source, trust_remote_code)
    chosen = {} if dtype == "auto" else {"dtype": DTYPES[dtype]}
    try:
        with torch.device("meta"):
            network = _auto_class(config).from_config(
                config, trust_remote_code=trust_remote_code, attn_implementation="eager", **chosen
            )
    except (ValueError, ImportError, RuntimeError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"model {name!r} cannot be built from its configuration: {_sentence(error)}") from error
    return _loaded(network.eval(), _processor(name, source, trust_remote_code), name)


def _source(model: str | os.PathLike[str] | None, dtype: str) -> tuple[str, str]:
    """Name and place of a model, both checked as far as that goes without reading it."""
    name = DEFAULT_MODEL if model is None else str(model)
    source = str(BUNDLED.get(name, name))
    if dtype not in DTYPES:
        raise ModelError(f"dtype must be one of {', '.join(DTYPES)}, got {dtype!r}")
    if os.path.isdir(source):
        if not (Path(source) / _CONFIG).is_file():
            raise ModelError(f"{source} is not a model: it has no config.json")
    elif _looks_like_path(source):
        raise ModelError(f"there is no directory {source}")
    elif "/" not in source:
        near = get_close_matches(source.lower(), BUNDLED, n=1, cutoff=_NEAR)
        meant = f"did you mean {near[0]!r}?" if near else f"bundled are {', '.join(map(repr, BUNDLED))}"
        raise ModelError(f"model {name!r} is no directory, no bundled one and no hub id, which is owner/name; {meant}")
    return name, source


def _loaded(network: Any, processor: Any, name: str) -> LoadedModel:
    return LoadedModel(
        model=network,
        processor=processor,
        name=name,
        dtype=str(network.dtype).removeprefix("torch."),
        device=str(network.device),
        attention=str(network.config._attn_implementation),
    )


def _device(device: str | None) -> torch.device:
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        target = torch.device(device)
        torch.empty(0, device=target)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ModelError(f"device {device!r} cannot be used here: {_sentence(error)}") from error
    return target


def _looks_like_path(source: str) -> bool:
    """Whether a name is meant as a place in the file system, not as a hub id, which is ``owner/name``."""
    return source.startswith(("/", ".", "~")) or source.count("/") > 1 or "\\" in source or os.path.exists(source)


def _check_weights(directory: Path) -> None:
    if not any(directory.glob("*.safetensors")):
        other = sorted(path.name for suffix in ("bin", "pt", "pth") for path in directory.glob(f"*.{suffix}"))
        found = f", only {other[0]}, which can run code when it is opened" if other else ""
        raise ModelError(f"{directory} has no weights in safetensors format{found}")


def _config(name: str, source: str, trust_remote_code: bool) -> Any:
    """The configuration; an unsupported family is refused before its weights are fetched."""
    config = _read_config(source, trust_remote_code)
    if not trust_remote_code:
        _check_family(name, config)
    return config


def _ask_hub(source: str) -> None:
    """Say that the hub is asked for what is not on this machine, and ask it once whether it can be reached: its client
    would try for minutes, whatever it is told. What else may be wrong there, the client says better itself."""
    if os.path.isdir(source) or huggingface_hub.constants.HF_HUB_OFFLINE:
        return
    try:
        if isinstance(huggingface_hub.try_to_load_from_cache(source, _CONFIG), str):
            return
        logger.warning("%s is not on this machine; asking the Hugging Face hub", source)
        url = huggingface_hub.hf_hub_url(source, _CONFIG)
        huggingface_hub.get_hf_file_metadata(url, timeout=_HUB_SECONDS)
    except Exception as error:
        # The client's network errors are those of httpx or httpx2, by its release.
        if not type(error).__module__.startswith("httpx"):
            return
        raise ModelError(
            f"model {source!r} is no directory, and the Hugging Face hub cannot be reached: {_sentence(error)}"
        ) from error


def _read_config(source: str, trust_remote_code: bool) -> Any:
    _ask_hub(source)
    try:
        return transformers.AutoConfig.from_pretrained(source, trust_remote_code=trust_remote_code)
    except OSError as error:
        if os.path.isdir(source):
            raise ModelError(f"the configuration of {source} cannot be read: {_sentence(error)}") from error
        raise ModelError(
            f"model {source!r} is no directory and could not be fetched from the Hugging Face hub: {_sentence(error)}"
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise ModelError(f"the configuration of {source!r} cannot be used: {_sentence(error)}") from error


def _check_family(name: str, config: Any) -> None:
    known = known_class(config.model_type)
    if not any(known in family.model_classes for family in FAMILIES):
        supported = ", ".join(family.name for family in FAMILIES)
        because = f": {REFUSED[known]}" if known in REFUSED else ""
        raise ModelError(
            f"model {name!r} is of the family {config.model_type!r}, which is not supported{because}; "
            f"supported: {supported}"
        )


def _auto_class(config: Any) -> Any:
    """The auto class that model cards use, or the one that code beside a checkpoint names instead."""
    named = getattr(config, "auto_map", None) or {}
    wanted = "AutoModelForMultimodalLM"
    return getattr(transformers, "AutoModelForImageTextToText" if named and wanted not in named else wanted)


def _processor(name: str, source: str, trust_remote_code: bool) -> Any:
    try:
        processor = transformers.AutoProcessor.from_pretrained(source, trust_remote_code=trust_remote_code)
    except (OSError, ValueError, ImportError, KeyError) as error:
        raise ModelError(f"model {name!r} has no usable processor: {_sentence(error)}") from error
    if not hasattr(processor, "apply_chat_template") or not hasattr(processor, "tokenizer"):
        raise ModelError(f"model {name!r} comes with a tokenizer only; a processor for videos is needed")
    return processor


@contextmanager
def _without_bars() -> Iterator[None]:
    """Inside, no bar is shown for weights that are read, which takes seconds; those of downloads stay as they are."""
    bars, downloads = transformers.logging.is_progress_bar_enabled(), not are_progress_bars_disabled()
    # transformers turns those of the hub off and on with its own.
    transformers.logging.disable_progress_bar()
    if downloads:
        enable_progress_bars()
    try:
        yield
    finally:
        if bars:
            transformers.logging.enable_progress_bar()
        if not downloads:
            disable_progress_bars()


def _network(name: str, source: str, config: Any, dtype: str, attn: str | None, trust_remote_code: bool) -> Any:
    options = {} if attn is None else {"attn_implementation": attn}
    try:
        with _without_bars():
            loaded: Any = _auto_class(config).from_pretrained(
                source,
                config=config,
                dtype=DTYPES[dtype],
                use_safetensors=True,
                trust_remote_code=trust_remote_code,
                output_loading_info=True,
                **options,
            )
    except (OSError, ValueError, ImportError, RuntimeError, KeyError) as error:
        raise ModelError(f"model {name!r} cannot be loaded: {_sentence(error)}") from error
    except Exception as error:
        # safetensors reports a damaged file through an exception class of its own
        if type(error).__module__.startswith("safetensors"):
            raise ModelError(f"the weights of {name!r} are damaged: {_sentence(error)}") from error
        raise
    network, info = loaded
    missing = sorted(info["missing_keys"])
    if missing:
        raise ModelError(
            f"the weights of {name!r} are incomplete: {len(missing)} tensors are missing, the first is {missing[0]}"
        )
    return network


def _sentence(error: BaseException) -> str:
    """First line of an error's text, without its full stop."""
    lines = str(error).strip().splitlines()
    return lines[0].strip().rstrip(".") if lines else type(error).__name__
