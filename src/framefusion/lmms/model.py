"""The class that lmms-eval calls. Needs the extra ``eval``."""

from __future__ import annotations

import os
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, islice
from typing import Any, NoReturn

from accelerate import Accelerator
from lmms_eval.api.instance import GenerationResult, Instance, TokenCounts
from lmms_eval.api.model import lmms
from lmms_eval.models.model_utils.gen_metrics import log_metrics
from tqdm import tqdm

from framefusion.asking.fitting import Fitting
from framefusion.asking.loading import load
from framefusion.assets import usual_frames
from framefusion.checks import is_number, is_whole
from framefusion.errors import ArgumentError
from framefusion.lmms.answering import Answering, Spent
from framefusion.lmms.arguments import Generation, settings_from
from framefusion.lmms.prompts import Sample, read_visual
from framefusion.selection import warm_up

ARGUMENTS = (
    "pretrained",
    "frames",
    "fps",
    "batch_size",
    "dtype",
    "device",
    "attn",
    "trust_remote_code",
    "share",
)


@dataclass(frozen=True)
class _Asked:
    """A request, by its position among all."""

    position: int
    name: str
    sample: Sample


class FrameFusionModel(lmms):
    """Any supported video LLM with a share of its visual tokens, as a model of lmms-eval.

    Of a task's requests the text, the videos and the pictures are used: videos first, then the text, one user turn.
    Answers are greedy. With several processes (``accelerate launch``) each answers its part with a model of its own.

    Args:
        pretrained: a directory or a hub id; default the bundled checkpoint.
        frames: of each video, evenly spread. Default 32, of the bundled checkpoint 16.
        fps: frames per second of video instead.
        batch_size: requests at a time, as far as their videos have the same size; ``--batch_size`` sets it.
        dtype: as :func:`framefusion.asking.loading.load`.
        device: likewise; with several processes each has its own.
        attn: attention implementation, likewise.
        trust_remote_code: likewise.
        share: whether requests about the same videos and pictures share what is prefilled of them, where they may;
            answers are the same. Default True.
        max_batch_size: not supported; there is no automatic batch size.
        settings: every field of :class:`~framefusion.reduction.settings.FrameFusion` by its name, or ``settings``,
            a file; see :func:`~framefusion.lmms.arguments.settings_from`.

    Raises:
        ValueError: an argument is unknown or has a value that cannot be used; names it.
    """

    is_simple = True

    def __init__(
        self,
        pretrained: str | None = None,
        frames: int | None = None,
        fps: float | None = None,
        batch_size: int | str = 1,
        dtype: str = "auto",
        device: str | None = None,
        attn: str | None = None,
        trust_remote_code: bool = False,
        share: bool = True,
        max_batch_size: int | None = None,
        **settings: Any,
    ) -> None:
        super().__init__()
        self.settings = settings_from(settings, ARGUMENTS)
        self.batch_size = _batch_size(batch_size, max_batch_size)
        if frames is not None and fps is not None:
            raise ArgumentError(f"frames={frames} and fps={fps} exclude each other; give one of them.")
        if frames is not None and not (is_whole(frames) and frames >= 1):
            raise ArgumentError(f"frames must be a whole number, at least 1, got {frames!r}.")
        if fps is not None and not (is_number(fps) and fps > 0):
            raise ArgumentError(f"fps must be a number above 0, got {fps!r}.")
        for name, flag in (("trust_remote_code", trust_remote_code), ("share", share)):
            if not isinstance(flag, bool):
                raise ArgumentError(f"{name} must be True or False, got {flag!r}.")
        if frames is None and fps is None:
            frames = usual_frames(pretrained)
        self.frames, self.fps, self.share = frames, fps, share
        self.accelerator = Accelerator()
        if self.accelerator.num_processes > 1:
            self._rank, self._world_size = self.accelerator.process_index, self.accelerator.num_processes
            device = str(self.accelerator.device)
        loaded = load(pretrained, dtype=dtype, device=device, attn=attn, trust_remote_code=trust_remote_code)
        self.model, self.processor = loaded.model, loaded.processor
        self._fit = Fitting.of(self.model, self.processor)
        warm_up(self.model.dtype, self.model.device)
        # what this model cannot do is refused before any task is loaded
        Answering(self.model, self.processor, self.settings).run.detach()

    @property
    def device(self) -> Any:
        """Where the model is."""
        return self.model.device

    def generate_until(self, requests: Sequence[Instance]) -> list[GenerationResult]:
        """The answers, in the order of the requests.

        Raises:
            ValueError: a request cannot be answered; names task and document.
        """
        results: dict[int, GenerationResult] = {}
        with Answering(self.model, self.processor, self.settings) as answering, self._progress(requests) as progress:
            for batch, generation, shown in self._batches(requests, answering):
                try:
                    responses = answering.generate([one.sample for one in batch], generation, shown)
                except ValueError as error:
                    _fail(", ".join(one.name for one in batch), error)
                for one, response in zip(batch, responses, strict=True):
                    counts = TokenCounts(response.prompt_tokens, response.new_tokens)
                    results[one.position] = GenerationResult(response.text, counts)
                progress.update(len(batch))
        _log(answering.spent, len(results))
        return [results[position] for position in range(len(requests))]

    def loglikelihood(self, requests: Sequence[Instance]) -> list[GenerationResult]:
        """For each request the mean negative log-likelihood of the continuation's tokens, in nats, and whether it is
        the greedy answer. Tasks of lmms-eval take the choice with the *smallest* number.

        The pair is what the result has for a text: lmms-eval 0.7.3 makes a text of any bare pair of numbers.

        Raises:
            ValueError: a request cannot be answered; names task and document.
        """
        results: dict[int, GenerationResult] = {}
        for request in requests:
            if len(request.args) != 6:
                _fail(
                    _name(request), "it asks for the likelihood of a text without its document, which is not supported"
                )
        with Answering(self.model, self.processor, self.settings) as answering, self._progress(requests) as progress:
            for shown, positions in self._groups(requests, answering):
                for position in positions:
                    text, wanted, to_visual, document, task, split = requests[position].args
                    try:
                        sample = self._sample(text, to_visual, document, task, split)
                        continuation = wanted(self._document(document, task, split)) if callable(wanted) else wanted
                        likelihood = answering.likelihood(sample, str(continuation), shown)
                    except ValueError as error:
                        _fail(_name(requests[position]), error)
                    results[position] = GenerationResult(likelihood)
                    progress.update(1)
        _log(answering.spent, len(results))
        return [results[position] for position in range(len(requests))]

    def generate_until_multi_round(self, requests: Sequence[Instance]) -> NoReturn:
        """Not supported.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError(
            f"the task {requests[0].task_name!r} asks in several rounds, which framefusion does not support; leave it "
            "out."
        )

    def _batches(
        self, requests: Sequence[Instance], answering: Answering
    ) -> Iterator[tuple[list[_Asked], Generation, Hashable]]:
        """Requests that fit together, how to answer them, and what they are shown where they share it."""

        def asked(positions: Sequence[int]) -> Iterator[tuple[_Asked, Generation]]:
            for position in positions:
                name = _name(requests[position])
                text, kwargs, *rest = requests[position].args
                try:
                    yield _Asked(position, name, self._sample(text, *rest)), Generation.of(kwargs)
                except ValueError as error:
                    _fail(name, error)

        for shown, positions in self._groups(requests, answering):
            for (_, generation), group in groupby(asked(positions), lambda one: (one[0].sample.shape, one[1])):
                while batch := [one for one, _ in islice(group, self.batch_size)]:
                    yield batch, generation, shown

    def _groups(self, requests: Sequence[Instance], answering: Answering) -> list[tuple[Hashable, list[int]]]:
        """Positions of the requests that share what they are shown, and None with all that do not."""
        alone: list[int] = []
        groups: dict[Hashable, list[int]] = {}
        by_path: dict[Hashable, bool] = {}
        for position, request in enumerate(requests):
            shown = self._shown(by_path, *request.args[2:]) if self.share and answering.shares else None
            (alone if shown is None else groups.setdefault(shown, [])).append(position)
        shared = [(shown, own) for shown, own in groups.items() if len(own) > 1]
        alone += [own[0] for own in groups.values() if len(own) == 1]
        return [(None, sorted(alone)), *shared]

    def _shown(self, by_path: dict[Hashable, bool], to_visual: Any, document: int, task: str, split: str) -> Hashable:
        """What tells the videos and pictures of a document from others: their paths, where a task has paths, or else
        the document; None without any."""
        own = task, split, document
        if to_visual is None:
            return None
        if not by_path.get((task, split), True):
            # Pictures are read for the answers, not twice.
            return own
        given = to_visual(self._document(document, task, split))
        if not given:
            return None
        by_path[task, split] = all(isinstance(one, (str, os.PathLike)) for one in given)
        return tuple(map(os.fspath, given)) if by_path[task, split] else own

    def _document(self, document: int, task: str, split: str) -> Any:
        return self.task_dict[task][split][document]

    def _sample(self, text: str, to_visual: Any, document: int, task: str, split: str) -> Sample:
        given = to_visual(self._document(document, task, split)) if to_visual is not None else None
        return Sample(text, tuple(read_visual(one, self.frames, self.fps, self._fit) for one in given or ()))

    def _progress(self, requests: Sequence[Instance]) -> Any:
        return tqdm(total=len(requests), disable=self.rank != 0, desc="Answering")


def _batch_size(given: Any, maximum: Any) -> int:
    text = str(given)
    if maximum is not None or not text.isdecimal() or int(text) < 1:
        raise ArgumentError(
            f"batch_size must be a whole number, at least 1, got {given!r}"
            + (f" with max_batch_size={maximum}" if maximum is not None else "")
            + "; there is no automatic batch size."
        )
    return int(text)


def _name(request: Instance) -> str:
    return f"{request.task_name} document {request.doc_id}"


def _fail(name: str, reason: object) -> NoReturn:
    message = f"{name}: {reason}"
    raise ArgumentError(message) from (reason if isinstance(reason, BaseException) else None)


def _log(spent: Spent, requests: int) -> None:
    """Where lmms-eval gathers what it writes beside the scores."""
    log_metrics(
        total_elapsed_time=spent.seconds,
        total_gen_tokens=spent.new_tokens,
        avg_speed=spent.new_tokens / spent.seconds if spent.seconds else 0.0,
        additional_metrics={
            "total_requests": requests,
            "visual_token_share": spent.visual_token_share,
            "kv_byte_share": spent.kv_byte_share,
        },
    )
