"""Classes of ``transformers`` that see pictures or videos and cannot be attached, each with the reason.

``attach`` says it, ``framefusion models --refused`` and docs/guides/models.md list it, and a test fails when a release
of ``transformers`` brings a class that is neither here nor in the registry.
"""

from __future__ import annotations

from typing import Any

from transformers.models.auto.modeling_auto import MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES


def _all(reason: str, *classes: str) -> dict[str, str]:
    return dict.fromkeys(classes, reason)


_INDEXED = (
    "an index chooses the few keys that each token attends to, from keys of its own in the cache, which a shortened "
    "cache would number anew"
)
_WHOLE = "attach to its thinker alone (model.thinker), which is supported: the talker needs the whole prompt"
_YET = "not supported yet"
_PICTURES = f"{_YET}; it takes pictures alone, no videos"
_DOCUMENTS = "it transcribes documents, where a token that is dropped is a word that is lost"
_READS_VIDEOS = f"its class takes videos too, but {_DOCUMENTS}"
_SOUND = "it hears sound and sees nothing"
_CROSS = "its text attends to the picture across, and no visual token is in the sequence of its decoder"
_ENCODER_DECODER = "an encoder–decoder model: pictures are in the encoder, once, and the decoder attends across to it"
_QUERIES = (
    "of a picture its language model gets a fixed number of query tokens, which are no patches, in no order of place"
)
_CODES = f"{_YET}; pictures are words of a codebook here, not features"

REFUSED: dict[str, str] = {
    **_all(
        _INDEXED,
        "Dots3NoteForConditionalGeneration",
        "MiniMaxM3SparseForConditionalGeneration",
        "MistralLarge4ForConditionalGeneration",
    ),
    **_all(
        f"{_INDEXED}, and its hidden states are several streams that hyper-connections mix",
        "Glm5NextForConditionalGeneration",
        "HYV4VLForConditionalGeneration",
    ),
    **_all(
        f"{_INDEXED}, its hidden states are several streams that hyper-connections mix, and some layers embed the "
        "token ids of the whole prompt again",
        "Qwen4ExpForConditionalGeneration",
    ),
    **_all(
        "its attention goes by how far apart two tokens lie in the cache, which dropping tokens would change",
        "InklingForConditionalGeneration",
    ),
    **_all(
        "its attention goes by how far apart two tokens lie in the cache, which dropping tokens would change, and "
        "its layers go back to the outputs of earlier ones, which stay at full length",
        "Inkling2ForConditionalGeneration",
        "Inkling2LoopForConditionalGeneration",
    ),
    **_all(
        _CROSS,
        "BlipForConditionalGeneration",
        "BlipForQuestionAnswering",
        "IdeficsForVisionText2Text",
        "MllamaForConditionalGeneration",
    ),
    **_all(
        _ENCODER_DECODER,
        "Florence2ForConditionalGeneration",
        "PPFormulaNetForConditionalGeneration",
        "Pix2StructForConditionalGeneration",
        "T5Gemma2ForConditionalGeneration",
        "UdopForConditionalGeneration",
        "VisionEncoderDecoderModel",
    ),
    **_all(
        _QUERIES,
        "Blip2ForConditionalGeneration",
        "Idefics2ForConditionalGeneration",
        "InstructBlipForConditionalGeneration",
        "InstructBlipVideoForConditionalGeneration",
        "Kosmos2ForConditionalGeneration",
        "Kosmos2TextForCausalLM",
        "Kosmos2_5ForConditionalGeneration",
        "Kosmos2_5TextForCausalLM",
    ),
    **_all(
        _CODES,
        "Apertus1p5ForConditionalGeneration",
        "ChameleonForConditionalGeneration",
        "Emu3ForConditionalGeneration",
    ),
    **_all("it makes pictures, not text", "GlmImageForConditionalGeneration"),
    **_all(
        "it makes speech, not text",
        "Qwen2_5OmniTalkerForConditionalGeneration",
        "Qwen3OmniMoeTalkerForConditionalGeneration",
    ),
    **_all(_WHOLE, "Qwen2_5OmniForConditionalGeneration", "Qwen3OmniMoeForConditionalGeneration"),
    **_all("it sees proteins, no pictures", "EvollaForProteinText2Text"),
    **_all("it makes the movements of a robot, not text", "PI0ForConditionalGeneration"),
    **_all(
        "it denoises whole blocks of text at once, where reduction follows a decoder that adds token after token",
        "DiffusionGemmaForBlockDiffusion",
    ),
    **_all(
        "its pictures stand in front of the text without placeholders, so nothing in the call tells where",
        "GitForCausalLM",
    ),
    **_all(
        "its decoder embeds pictures and sound itself, so there is no model around it that tells where they are",
        "Phi4MultimodalForCausalLM",
    ),
    **_all(
        _DOCUMENTS,
        "DeepseekOcr2ForConditionalGeneration",
        "GotOcr2ForConditionalGeneration",
        "GraniteDoclingForConditionalGeneration",
        "HunYuanVLForConditionalGeneration",
        "LightOnOcrForConditionalGeneration",
        "PaddleOCRVLForConditionalGeneration",
        "QianfanOCRForConditionalGeneration",
        "UnlimitedOcrForConditionalGeneration",
    ),
    **_all(_READS_VIDEOS, "GlmOcrForConditionalGeneration", "MiniCPMOcrForConditionalGeneration"),
    **_all(f"{_YET}; it takes one picture a prompt, no videos", "FuyuForCausalLM"),
    **_all(
        _PICTURES,
        "AyaVisionForConditionalGeneration",
        "DeepseekVLForConditionalGeneration",
        "DeepseekVLHybridForConditionalGeneration",
        "FastVlmForConditionalGeneration",
        "Granite4VisionForConditionalGeneration",
        "JanusForConditionalGeneration",
        "PaliGemmaForConditionalGeneration",
        "Step3p7ForConditionalGeneration",
        "VipLlavaForConditionalGeneration",
    ),
    **_all(
        _YET,
        "CohereCompassForConditionalGeneration",
        "Cosmos3EdgeForConditionalGeneration",
        "Cosmos3OmniForConditionalGeneration",
        "Gemma4UnifiedForConditionalGeneration",
        "HyperCLOVAXVisionV2ForConditionalGeneration",
    ),
    **_all(
        f"{_YET}; some of its layers take no rotary positions",
        "MuseGlimmerForConditionalGeneration",
        "MuseSparkForConditionalGeneration",
    ),
    **_all("it reads text and sees nothing", "Mistral4ForCausalLM"),
    **_all(
        _SOUND,
        "FunAsrNanoForConditionalGeneration",
        "GlmAsrForConditionalGeneration",
        "GraniteSpeechForConditionalGeneration",
        "GraniteSpeechPlusForConditionalGeneration",
        "KyutaiSpeechToTextForConditionalGeneration",
        "MossTranscribeDiarizeForConditionalGeneration",
        "Nemotron3_5TranscribeForConditionalGeneration",
        "OmniASRForConditionalGeneration",
        "Qwen2AudioForConditionalGeneration",
        "Qwen3ASRForConditionalGeneration",
        "VibeVoiceAsrForConditionalGeneration",
        "VoxtralForConditionalGeneration",
        "VoxtralRealtimeForConditionalGeneration",
    ),
}
"""Class name of ``transformers``, the one with the language-model head, to the reason; half a sentence each."""


def known_class(model_type: str | None) -> str | None:
    """The class with the language-model head that ``transformers`` has for a type of configuration."""
    return None if model_type is None else MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES.get(model_type)


def refusal(model: Any) -> str | None:
    """Why a model cannot be attached, with or without its head; None where no reason is known."""
    names = [cls.__name__ for cls in type(model).__mro__]
    names.append(known_class(getattr(getattr(model, "config", None), "model_type", None)) or "")
    return next((REFUSED[name] for name in names if name in REFUSED), None)


def refused() -> list[dict[str, str]]:
    """One row per class: ``model_class`` and ``reason``; for listings."""
    return [{"model_class": name, "reason": REFUSED[name]} for name in sorted(REFUSED)]
