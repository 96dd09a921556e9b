"""Several questions behind one video, in one sequence, without seeing each other.

A packed row is ``prefix (prompt start, visual tokens, newline) | pair 1 | pair 2 | … | padding``. A pair is
the rest of the chat prompt and its answer. Every pair attends to the prefix and to itself, and its
positions continue the prefix's, so each pair computes exactly what it would compute alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from checkpoint import END, START, VIDEO
from questions import PARSE_SIZES, Question, parse
from transformers import PreTrainedTokenizerFast

PREFIX_PAIR = 0
PADDING_PAIR = -1
IGNORE = -100


@dataclass(frozen=True, eq=False)
class PromptIds:
    """Token ids around the visual tokens, as the chat template lays them out."""

    tokenizer: PreTrainedTokenizerFast

    @lru_cache(maxsize=100_000)  # noqa: B019 - one instance lives as long as the process
    def _encode(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False)

    def prefix(self, visual_tokens: int) -> list[int]:
        start = self._encode(f"{START}user")
        video = self.tokenizer.convert_tokens_to_ids(VIDEO)
        return start + [video] * (visual_tokens + 1)

    def pair(self, question: str, answer: str) -> tuple[list[int], list[int]]:
        """Ids of ``question`` up to the generation prompt, and of ``answer`` up to its end token."""
        return self._encode(f"{question}{END}{START}assistant"), self._encode(f"{answer}{END}")


@dataclass(frozen=True)
class PackedText:
    """Text part of packed rows, each ``(B, M)`` int64.

    ``labels`` holds at each position the id to predict there (already shifted), −100 elsewhere; ``offset`` is
    the position relative to the end of the prefix; ``pair`` is 1, 2, … or −1 for padding; ``scene`` is the
    scene to look at for predicting a word of the answer, −1 elsewhere; ``parse`` ``(B, M, 4)`` is what the
    question asks (see ``questions.parse``) where ``scene`` is known, −100 elsewhere.
    """

    ids: torch.Tensor
    labels: torch.Tensor
    offset: torch.Tensor
    pair: torch.Tensor
    scene: torch.Tensor
    parse: torch.Tensor


def pack_pairs(
    prompts: PromptIds, rows: list[list[tuple[str, str]]], pad_id: int, asked: list[list[Question]] | None = None
) -> PackedText:
    """Pack each row's (question, answer) pairs one after the other, padded on the right.

    ``asked`` gives the generator's question behind each pair, for the fields that only training needs.
    """
    columns: list[list[list]] = []
    unknown = [IGNORE] * len(PARSE_SIZES)
    for index, row in enumerate(rows):
        ids, labels, offset, pair, scene, parsed = [], [], [], [], [], []
        for number, (question, answer) in enumerate(row, start=1):
            prompt, reply = prompts.pair(question, answer)
            behind = None if asked is None else asked[index][number - 1]
            before, words = len(prompt) - 1, len(reply) - 1
            ids += prompt + reply
            labels += [IGNORE] * before + reply + [IGNORE]
            offset += range(len(prompt) + len(reply))
            pair += [number] * (len(prompt) + len(reply))
            scene += [-1] * before + [-1 if behind is None else behind.scene] * words + [-1, -1]
            what = unknown if behind is None else list(parse(behind))
            parsed += [unknown] * before + [what] * words + [unknown, unknown]
        columns.append([ids, labels, offset, pair, scene, parsed])
    width = max(len(column[0]) for column in columns)
    fills = (pad_id, IGNORE, 0, PADDING_PAIR, -1, unknown)
    padded = (
        torch.tensor([column[i] + [fill] * (width - len(column[i])) for column in columns])
        for i, fill in enumerate(fills)
    )
    return PackedText(*padded)


def packed_mask(pair: torch.Tensor) -> torch.Tensor:
    """Additive attention mask, float32 ``(B, 1, N, N)``, from each position's pair number ``(B, N)``.

    Pair 0 is the shared prefix, −1 is padding.
    """
    length = pair.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool).tril()
    allowed = (pair[:, :, None] == pair[:, None, :]) | (pair[:, None, :] == PREFIX_PAIR)
    mask = torch.zeros(allowed.shape, dtype=torch.float32)
    return mask.masked_fill_(~(allowed & causal), torch.finfo(torch.float32).min)[:, None]
