"""The bundled checkpoint's parts: tokenizer, processor and an untrained model of the real class."""

from __future__ import annotations

import math

import torch
from tokenizers import Tokenizer, normalizers, pre_tokenizers
from tokenizers.models import WordLevel
from transformers import (
    GenerationConfig,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    LlavaOnevisionImageProcessor,
    LlavaOnevisionProcessor,
    LlavaOnevisionVideoProcessor,
    PreTrainedTokenizerFast,
    Qwen2Config,
    SiglipVisionConfig,
)

from framefusion.needle.footage import FRAME_SIZE
from framefusion.needle.objects import COLOR_NAMES, KINDS
from framefusion.needle.questions import PUNCTUATION, vocabulary
from framefusion.needle.scenes import TOKEN_GRID

PATCH_SIZE = FRAME_SIZE // (2 * TOKEN_GRID)
TOKENS_PER_FRAME = TOKEN_GRID * TOKEN_GRID
LAYERS, WIDTH = 12, 128
IMAGE_MEAN = [0.5, 0.5, 0.5]
IMAGE_STD = [0.5, 0.5, 0.5]

PAD, UNK, START, END = "<|endoftext|>", "<unk>", "<|im_start|>", "<|im_end|>"
IMAGE, VIDEO = "<image>", "<video>"

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + ' ' }}"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}{{ '<image>' }}"
    "{% elif part['type'] == 'video' %}{{ '<video>' }}"
    "{% endif %}{% endfor %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'text' %}{{ ' ' + part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}"
    "{{ '<|im_end|>' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant' }}{% endif %}"
)


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Word-level tokenizer over the generator's vocabulary; lower-cases and splits off punctuation."""
    roles = ("user", "assistant", "system")
    words = [PAD, UNK, START, END, IMAGE, VIDEO, *PUNCTUATION, *roles, *vocabulary()]
    tokenizer = Tokenizer(WordLevel({word: i for i, word in enumerate(words)}, unk_token=UNK))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation(behavior="isolated")]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        unk_token=UNK,
        eos_token=END,
        additional_special_tokens=[START, IMAGE, VIDEO],
        padding_side="left",
        model_max_length=8192,
        clean_up_tokenization_spaces=False,
    )


def build_processor() -> LlavaOnevisionProcessor:
    """The class's own processor: frames resized to 96 × 96, scaled to −1 … 1, never re-sampled in time."""
    size = {"height": FRAME_SIZE, "width": FRAME_SIZE}
    pixels = {"size": size, "image_mean": IMAGE_MEAN, "image_std": IMAGE_STD, "default_to_square": True}
    return LlavaOnevisionProcessor(
        image_processor=LlavaOnevisionImageProcessor(image_grid_pinpoints=[[FRAME_SIZE, FRAME_SIZE]], **pixels),
        video_processor=LlavaOnevisionVideoProcessor(do_sample_frames=False, **pixels),
        tokenizer=build_tokenizer(),
        num_image_tokens=(FRAME_SIZE // PATCH_SIZE) ** 2,
        vision_feature_select_strategy="full",
        chat_template=CHAT_TEMPLATE,
        vision_aspect_ratio="anyres_max_1",
    )


def decoder_config(tokenizer: PreTrainedTokenizerFast) -> dict:
    """What the decoders of both checkpoints have in common: 12 layers × 128, 4 heads."""
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": WIDTH,
        "intermediate_size": 2 * WIDTH,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "max_position_embeddings": 8192,
        "tie_word_embeddings": False,
        "bos_token_id": None,
        "eos_token_id": tokenizer.convert_tokens_to_ids(END),
        "pad_token_id": tokenizer.convert_tokens_to_ids(PAD),
    }


def build_model(tokenizer: PreTrainedTokenizerFast) -> LlavaOnevisionForConditionalGeneration:
    """An untrained model: SigLIP tower 3 × 96 with 6-pixel patches, Qwen2 decoder 12 × 128."""
    ids = {name: tokenizer.convert_tokens_to_ids(name) for name in (PAD, END, IMAGE, VIDEO)}
    vision = SiglipVisionConfig(
        hidden_size=96,
        intermediate_size=192,
        num_hidden_layers=3,
        num_attention_heads=4,
        image_size=FRAME_SIZE,
        patch_size=PATCH_SIZE,
        vision_use_head=False,
    )
    text = Qwen2Config(rope_parameters={"rope_type": "default", "rope_theta": 10000.0}, **decoder_config(tokenizer))
    config = LlavaOnevisionConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=ids[IMAGE],
        video_token_index=ids[VIDEO],
        image_grid_pinpoints=[[FRAME_SIZE, FRAME_SIZE]],
        vision_aspect_ratio="anyres_max_1",
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
    )
    model = LlavaOnevisionForConditionalGeneration(config)
    start_decoder(model.model.language_model)
    start_local(model.model.vision_tower)
    model.generation_config = GenerationConfig(
        eos_token_id=ids[END], pad_token_id=ids[PAD], max_new_tokens=8, do_sample=False
    )
    return model


@torch.no_grad()
def start_decoder(decoder: torch.nn.Module) -> None:
    """Queries and keys large enough that attention tells tokens apart from the start; quiet residual branches."""
    for layer in decoder.layers:
        for linear in (layer.self_attn.q_proj, layer.self_attn.k_proj):
            torch.nn.init.normal_(linear.weight, std=WIDTH**-0.5)
        torch.nn.init.normal_(layer.self_attn.v_proj.weight, std=WIDTH**-0.5)
        for linear in (layer.self_attn.o_proj, layer.mlp.down_proj):
            torch.nn.init.normal_(linear.weight, std=0.5 * (WIDTH * 2 * LAYERS) ** -0.5)
        for linear in (layer.mlp.gate_proj, layer.mlp.up_proj):
            torch.nn.init.normal_(linear.weight, std=WIDTH**-0.5)


@torch.no_grad()
def start_words(model: torch.nn.Module, tokenizer: PreTrainedTokenizerFast, directions: torch.nn.Module) -> None:
    """Let the words for colours and kinds point where visual tokens of that colour or kind do.

    Large models are trained into such a common space by captions; left to itself, a small decoder learns for one word
    after the other which tokens it means.
    """
    for rows in (model.get_input_embeddings().weight, model.lm_head.weight):
        size = rows.norm(dim=1).mean()
        for names, name in ((COLOR_NAMES, "color"), (KINDS, "kind")):
            for word, direction in zip(names, getattr(directions, name), strict=False):
                rows[tokenizer.convert_tokens_to_ids(word)] += size * direction


_FREQUENCIES = (1, 2, 4, 6)
# Where the heads of the tower's layers look at first, in patches (x, y).
_OFFSETS = (
    ((-1, -1), (1, -1), (-1, 1), (1, 1)),
    ((-2, 0), (2, 0), (0, -2), (0, 2)),
    ((-2, -2), (2, -2), (-2, 2), (2, 2)),
)


@torch.no_grad()
def start_local(tower: torch.nn.Module, strength: float = 1.5) -> None:
    """Let each head of the vision tower start by looking at a neighbouring patch.

    The first 16 channels of the position embedding become sines and cosines of the patch's column and row
    (four frequencies each), and a head's query is its key rotated by the head's offset, so that attention
    begins as a small convolution and is free to leave it (ConViT, arXiv 2103.10697). From a random start the
    tower needs many more steps before it tells shapes apart.
    """
    embeddings = tower.embeddings
    side = embeddings.image_size // embeddings.patch_size
    width = 4 * len(_FREQUENCIES)
    angles = torch.tensor(_FREQUENCIES) * (2 * torch.pi / side)

    def encode(position: torch.Tensor) -> torch.Tensor:
        phase = position[:, None] * angles
        return torch.stack([phase.cos(), phase.sin()], dim=-1).flatten(1)

    axis = torch.arange(side)
    columns, rows = axis.repeat(side), axis.repeat_interleave(side)
    embeddings.position_embedding.weight[:, :width] = torch.cat([encode(columns), encode(rows)], dim=1)
    embeddings.patch_embedding.weight[:width] = 0
    for layer, offsets in zip(tower.encoder.layers, _OFFSETS, strict=True):
        attention = layer.self_attn
        attention.q_proj.weight.zero_()
        attention.k_proj.weight.zero_()
        for head, (dx, dy) in enumerate(offsets):
            first = head * attention.head_dim
            turns = torch.cat([dx * angles, dy * angles])
            for pair, turn in enumerate(turns.tolist()):
                i, j = first + 2 * pair, 2 * pair
                cos, sin = math.cos(turn), math.sin(turn)
                attention.k_proj.weight[i : i + 2, j : j + 2] = strength * torch.eye(2)
                attention.q_proj.weight[i : i + 2, j : j + 2] = strength * torch.tensor([[cos, -sin], [sin, cos]])


def prompt_text(processor: LlavaOnevisionProcessor, question: str) -> str:
    """The ordinary chat prompt for one question about one video."""
    content = [{"type": "video"}, {"type": "text", "text": question}]
    return processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
