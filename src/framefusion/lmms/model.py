"""The class that lmms-eval calls. Needs the extra ``eval``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any, NoReturn

from accelerate import Accelerator
from lmms_eval.api.instance import GenerationResult, Instance, TokenCounts
from lmms_eval.api.model import lmms
from lmms_eval.models.model_utils.gen_metrics import log_metrics
from tqdm import tqdm

from framefusion.asking.loading import load
from framefusion.assets import usual_frames
from framefusion.checks import is_number, is_whole
from framefusion.errors import ArgumentError
from framefusion.lmms.answering import Answering, Spent
from framefusion.lmms.arguments import Generation, settings_from
from framefusion.lmms.prompts import Sample, read_visual

ARGUMENTS = (
    "pretrained",
    "frames",
    "fps",
    "batch_size",
    "dtype",
    "device",
    "attn",
    "trust_remote_code",
)


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
        if not isinstance(trust_remote_code, bool):
            raise ArgumentError(f"trust_remote_code must be True or False, got {trust_remote_code!r}.")
        if frames is None and fps is None:
            frames = usual_frames(pretrained)
        self.frames, self.fps = frames, fps
        self.accelerator = Accelerator()
        if self.accelerator.num_processes > 1:
            self._rank, self._world_size = self.accelerator.process_index, self.accelerator.num_processes
            device = str(self.accelerator.device)
        loaded = load(pretrained, dtype=dtype, device=device, attn=attn, trust_remote_code=trust_remote_code)
        self.model, self.processor = loaded.model, loaded.processor
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
        results: list[GenerationResult] = []
        with Answering(self.model, self.processor, self.settings) as answering, self._progress(requests) as progress:
            for names, samples, generation in self._batches(requests):
                try:
                    responses = answering.generate(samples, generation)
                except ValueError as error:
                    _fail(", ".join(names), error)
                results += [
                    GenerationResult(one.text, TokenCounts(one.prompt_tokens, one.new_tokens)) for one in responses
                ]
                progress.update(len(samples))
        _log(answering.spent, len(results))
        return results

    def loglikelihood(self, requests: Sequence[Instance]) -> list[GenerationResult]:
        """For each request the mean negative log-likelihood of the continuation's tokens, in nats, and whether it is
        the greedy answer. Tasks of lmms-eval take the choice with the *smallest* number.

        The pair is what the result has for a text: lmms-eval 0.7.3 makes a text of any bare pair of numbers.

        Raises:
            ValueError: a request cannot be answered; names task and document.
        """
        results: list[GenerationResult] = []
        with Answering(self.model, self.processor, self.settings) as answering, self._progress(requests) as progress:
            for request in requests:
                name = _name(request)
                if len(request.args) != 6:
                    _fail(name, "it asks for the likelihood of a text without its document, which is not supported")
                text, wanted, to_visual, document, task, split = request.args
                try:
                    sample = self._sample(text, to_visual, document, task, split)
                    continuation = wanted(self._document(document, task, split)) if callable(wanted) else wanted
                    results.append(GenerationResult(answering.likelihood(sample, str(continuation))))
                except ValueError as error:
                    _fail(name, error)
                progress.update(1)
        _log(answering.spent, len(results))
        return results

    def generate_until_multi_round(self, requests: Sequence[Instance]) -> NoReturn:
        """Not supported.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError(
            f"the task {requests[0].task_name!r} asks in several rounds, which framefusion does not support; leave it "
            "out."
        )

    def _batches(self, requests: Sequence[Instance]) -> Iterator[tuple[list[str], list[Sample], Generation]]:
        """Names, samples and generation of consecutive requests that fit together."""

        def samples() -> Iterator[tuple[str, Sample, Generation]]:
            for request in requests:
                name = _name(request)
                text, kwargs, *rest = request.args
                try:
                    yield name, self._sample(text, *rest), Generation.of(kwargs)
                except ValueError as error:
                    _fail(name, error)

        for (_, generation), group in groupby(samples(), lambda one: (one[1].shape, one[2])):
            batch: list[tuple[str, Sample, Generation]] = []
            for one in group:
                batch.append(one)
                if len(batch) == self.batch_size:
                    yield [name for name, _, _ in batch], [sample for _, sample, _ in batch], generation
                    batch = []
            if batch:
                yield [name for name, _, _ in batch], [sample for _, sample, _ in batch], generation

    def _document(self, document: int, task: str, split: str) -> Any:
        return self.task_dict[task][split][document]

    def _sample(self, text: str, to_visual: Any, document: int, task: str, split: str) -> Sample:
        given = to_visual(self._document(document, task, split)) if to_visual is not None else None
        return Sample(text, tuple(read_visual(one, self.frames, self.fps) for one in given or ()))

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
