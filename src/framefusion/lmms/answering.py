"""Answers and likelihoods of prompts with a share of their visual tokens."""

from __future__ import annotations

import time
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList, StoppingCriteria, StoppingCriteriaList

from framefusion.asking.encodings import Prompt
from framefusion.asking.together import Together, beginning, fitting, shares
from framefusion.errors import ArgumentError
from framefusion.hf import attach
from framefusion.lmms.arguments import Generation
from framefusion.lmms.prompts import Sample, prompt
from framefusion.reduction.settings import FrameFusion


@dataclass(frozen=True)
class Response:
    """One answer.

    Attributes:
        text: without special tokens, up to a text of ``until``.
        prompt_tokens: tokens of the prompt, all visual tokens included.
        new_tokens: tokens that were generated, without an end token.
    """

    text: str
    prompt_tokens: int
    new_tokens: int


@dataclass
class Spent:
    """What the prefills so far cost.

    Attributes:
        visual_tokens: before any reduction.
        token_layers: visual tokens, summed over the decoder layers and divided by their number.
        kv_bytes: of the caches after the prefill.
        kv_bytes_full: of those without reduction.
        new_tokens: tokens that were generated.
        seconds: in ``generate()``.
    """

    visual_tokens: int = 0
    token_layers: float = 0.0
    kv_bytes: int = 0
    kv_bytes_full: int = 0
    new_tokens: int = 0
    seconds: float = 0.0

    @property
    def visual_token_share(self) -> float:
        """Layer-averaged share of the visual tokens; 1 without any."""
        return self.token_layers / self.visual_tokens if self.visual_tokens else 1.0

    @property
    def kv_byte_share(self) -> float:
        """Bytes of the caches, text included, relative to those without reduction."""
        return self.kv_bytes / self.kv_bytes_full if self.kv_bytes_full else 1.0


class Answering:
    """A model that answers with a share of the visual tokens; a context manager that detaches.

    Args:
        model: a supported model, unchanged afterwards.
        processor: its processor.
        settings: what to keep.

    Attributes:
        shares: whether samples with the same videos and pictures can share what is prefilled of them.

    Raises:
        ValueError: this model cannot follow the settings.
    """

    def __init__(self, model: Any, processor: Any, settings: FrameFusion) -> None:
        self.model, self.processor = model, processor
        self.run = attach(model, settings)
        self.spent = Spent()
        self.shares = shares(model, self.run.settings)
        self._together = Together(model, self.run, self._pad)
        self._latest: tuple[Sample, Prompt] | None = None

    def __enter__(self) -> Answering:
        return self

    def __exit__(self, *error: object) -> None:
        self.run.detach()

    @property
    def _pad(self) -> int:
        tokenizer = self.processor.tokenizer
        return int(tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id)

    def generate(self, samples: Sequence[Sample], generation: Generation, shown: Hashable = None) -> list[Response]:
        """Greedy answers to a batch of samples of one shape.

        Args:
            samples: the prompts.
            generation: how to answer.
            shown: what tells the videos and pictures from others, where all samples have the same and more of them
                follow; None prefills every prompt as a whole.

        Raises:
            ValueError: a sample cannot be made a prompt, or its video cannot be reduced as the settings say.
        """
        prompts = [self._prompt(sample) for sample in samples]
        end = None if shown is None else beginning(self.model, prompts)
        groups = [list(range(len(prompts)))] if end is None else fitting(self.model, prompts, len(prompts))
        responses: dict[int, Response] = {}
        for positions in groups:
            batch = [prompts[position] for position in positions]
            responses |= zip(positions, self._responses(batch, generation, shown, end), strict=True)
        return [responses[position] for position in range(len(prompts))]

    def _responses(
        self, prompts: Sequence[Prompt], generation: Generation, shown: Hashable, end: int | None
    ) -> list[Response]:
        stopping, tokenizer = StoppingCriteriaList(), self.processor.tokenizer
        if generation.until:
            stopping.append(_Until(tokenizer, generation.until, max(one.length for one in prompts)))
        options = {"max_new_tokens": generation.new_tokens, "stopping_criteria": stopping}
        output = self._call(prompts, shown, end, **options)
        new = output.sequences[:, -len(output.logits) :]
        texts = tokenizer.batch_decode(new, skip_special_tokens=True)
        counts = self._lengths(new)
        self.spent.new_tokens += sum(counts)
        return [
            Response(generation.cut(text).strip(), one.length, count)
            for text, one, count in zip(texts, prompts, counts, strict=True)
        ]

    def likelihood(self, sample: Sample, continuation: str, shown: Hashable = None) -> tuple[float, bool]:
        """How likely an answer is. The prefill sees the prompt alone, so that the reduction knows nothing of it.

        Args:
            sample: the prompt.
            continuation: the answer; leading space is dropped, as the turn begins without.
            shown: as for :meth:`generate`.

        Returns:
            Mean negative log-likelihood of its tokens in nats, and whether greedy decoding gives each of them.

        Raises:
            ValueError: the continuation has no tokens; or as :meth:`generate`.
        """
        tokens = self.processor.tokenizer(continuation.lstrip(), add_special_tokens=False)["input_ids"]
        if not tokens:
            raise ArgumentError(f"the continuation {continuation!r} has no tokens.")
        one = self._prompt(sample)
        said = LogitsProcessorList([_Said(tokens, one.length)])
        end = None if shown is None else beginning(self.model, [one])
        output = self._call([one], shown, end, max_new_tokens=len(tokens), logits_processor=said)
        logits = torch.cat(output.logits).float()
        if len(logits) < len(tokens):
            raise ArgumentError(f"the continuation {continuation!r} has a token that ends an answer.")
        wanted = torch.tensor(tokens, device=logits.device)
        loss = torch.nn.functional.cross_entropy(logits, wanted)
        return float(loss), bool((logits.argmax(-1) == wanted).all())

    def _prompt(self, sample: Sample) -> Prompt:
        """The prompt of a sample; the latest is kept, as the continuations of one come one after the other."""
        if self._latest is None or not sample.same_as(self._latest[0]):
            self._latest = None
            self._latest = sample, prompt(sample, self.model, self.processor)
        return self._latest[1]

    def _call(self, prompts: Sequence[Prompt], shown: Hashable, end: int | None, **options: Any) -> Any:
        begin = time.perf_counter()
        with torch.inference_mode():
            output = self.model.generate(
                **self._together.arguments(prompts, shown, end),
                do_sample=False,
                num_beams=1,
                pad_token_id=self._pad,
                output_logits=True,
                return_dict_in_generate=True,
                **options,
            )
        self.spent.seconds += time.perf_counter() - begin
        summary = self.run.summary()
        self.spent.visual_tokens += summary.visual_tokens_before
        self.spent.token_layers += sum(summary.tokens_per_layer) / len(summary.tokens_per_layer)
        self.spent.kv_bytes += summary.kv_bytes_after
        self.spent.kv_bytes_full += summary.kv_bytes_before
        return output

    def _lengths(self, new: Tensor) -> list[int]:
        """Generated tokens of each row before its first end token or padding."""
        ends = self.model.generation_config.eos_token_id
        ends = [self._pad, *([] if ends is None else ends if isinstance(ends, list) else [ends])]
        ended = torch.isin(new, torch.tensor(ends, device=new.device)).cumsum(1)
        return [int(count) for count in (ended == 0).sum(1)]


class _Until(StoppingCriteria):
    """Ends an answer behind a given text. The one of ``transformers`` knows only some kinds of vocabulary."""

    def __init__(self, tokenizer: Any, until: Sequence[str], begin: int) -> None:
        self.tokenizer, self.until, self.begin = tokenizer, until, begin
        # no token is shorter than a byte; the one before keeps decoders from trimming a leading space
        self.window = max(len(text.encode()) for text in until) + 1

    def __call__(self, input_ids: Tensor, scores: Tensor, **kwargs: Any) -> Any:
        first = max(self.begin, input_ids.shape[1] - self.window)
        texts = self.tokenizer.batch_decode(input_ids[:, first:], skip_special_tokens=True)
        ended = [any(stop in text for stop in self.until) for text in texts]
        return torch.tensor(ended, device=input_ids.device)


class _Said(LogitsProcessor):
    """Lets ``generate()`` say given tokens; its raw logits stay what they are."""

    def __init__(self, tokens: Sequence[int], begin: int) -> None:
        self.tokens, self.begin = tokens, begin

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        forced = torch.full_like(scores, -torch.inf)
        forced[:, self.tokens[input_ids.shape[1] - self.begin]] = 0
        return forced
