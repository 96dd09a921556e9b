"""Prompts with videos and photographs: what the processor is given, and whether the model gets to see all of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from PIL import Image

from framefusion.asking.media import Media
from framefusion.asking.video import Video
from framefusion.errors import FrameFusionError
from framefusion.hf.families import Family, find, layouts_of, unwrapped
from framefusion.hf.families.frames import frame_labels
from framefusion.reduction.layout import Kind, VisualLayout

Content = list[dict[str, str]]
"""The parts of one user turn, as chat templates take them: ``{"type": "video"}``, ``{"type": "text", "text": …}``."""

NOUNS: dict[Kind, str] = {"video": "video", "image": "photograph"}
"""What users call each kind."""

LESS = "show fewer frames or smaller pictures, or take a smaller model"
"""What to do when memory is short."""

_SECONDS_PER_GRID = ("second_per_grid_ts", "video_second_per_grid")
"""Under these names processors tell models how far apart the temporal patches of each video are."""


class AskError(FrameFusionError, ValueError):
    """A question that cannot be asked with this model and these settings. The text is one sentence."""


class ProcessorError(AskError):
    """The processor itself refuses the input; what it raised is the ``__cause__``."""


def kind_of(medium: Media) -> Kind:
    """``"video"`` or ``"image"``."""
    return "video" if isinstance(medium, Video) else "image"


def content_of(media: Iterable[Media], text: str) -> Content:
    """One user turn: the media in order, then the text."""
    parts: Content = [{"type": kind_of(medium)} for medium in media]
    return [*parts, {"type": "text", "text": text}]


def model_inputs(media: Media | Sequence[Media], prompt: str, model: Any, processor: Any) -> Any:
    """The model's inputs for one or several videos and photographs and a text behind them, see :func:`turn_inputs`."""
    shown = [media] if isinstance(media, (Video, Image.Image)) else list(media)
    videos = [medium for medium in shown if isinstance(medium, Video)]
    pictures = [medium for medium in shown if not isinstance(medium, Video)]
    return turn_inputs(content_of(shown, prompt), videos, pictures, model, processor)


def turn_inputs(
    content: Sequence[Mapping[str, str]],
    videos: Sequence[Video],
    pictures: Sequence[Any],
    model: Any,
    processor: Any,
    following: Sequence[tuple[str, str]] = (),
) -> Any:
    """The model's inputs for one user turn, on its device and in its dtype.

    Every video and photograph is sure to be in them: what the model would not see is refused here.

    Args:
        content: the parts of the turn, as chat templates take them.
        videos: frames for the parts of type ``"video"``, in order.
        pictures: PIL images for the parts of type ``"image"``, in order.
        model: a loaded model.
        processor: its processor.
        following: an answer and the next question each, behind that turn.

    Raises:
        AskError: the processor has no chat template, refuses the input, or leaves a video or photograph out.
        UnsupportedModelError: the model is of no supported family.
    """
    inputs = prompt_inputs(content, videos, pictures, processor, family=find(unwrapped(model)), following=following)
    if videos or pictures:
        check_seen(model, inputs, len(videos) + len(pictures), type(processor).__name__)
    # A time in half precision would be off by seconds at the end of a long video.
    times = {name: inputs[name].to(model.device) for name in _SECONDS_PER_GRID if inputs.get(name) is not None}
    moved = inputs.to(model.device, dtype=model.dtype)
    moved.update(times)
    return moved


def check_seen(model: Any, inputs: Mapping[str, Any], given: int, processor: str) -> VisualLayout:
    """Refuse a prompt that does not show the model each of the ``given`` videos and photographs.

    Returns:
        Where their tokens are.

    Raises:
        AskError: the model would see fewer of them.
    """
    family = find(unwrapped(model))
    try:
        (layout,) = layouts_of(model, inputs)
    except ValueError as error:
        raise AskError(str(error)) from error
    seen = sum(count > 0 for count in layout.counts)
    if seen < given:
        what = "no visual token" if not seen else f"visual tokens of {seen} of {given} videos and photographs only"
        raise AskError(
            f"{processor} gave the model {what}, so that {family.name} would answer about what it cannot see; save the "
            "model's own processor and chat template beside it"
        )
    return layout


def prompt_inputs(
    content: Sequence[Mapping[str, str]],
    videos: Sequence[Video],
    pictures: Sequence[Any],
    processor: Any,
    more: Mapping[str, Any] | None = None,
    family: Family | None = None,
    following: Sequence[tuple[str, str]] = (),
) -> Any:
    """As :func:`turn_inputs`, as the processor makes them, and without a look at what the model would see.

    A processor that takes no videos gets their frames as images, each behind its time.

    Args:
        content: as there.
        videos: likewise.
        pictures: likewise.
        processor: likewise.
        more: further options for the processor.
        family: of the model; without it, neighbouring media are not kept apart by words, and no processor's needs of a
            kind of its own are met.
        following: as there.

    Raises:
        ProcessorError: the processor refuses the input.
        AskError: it has no chat template, the template leaves a part out, or the family does not take both kinds in
            one prompt.
    """
    parts, options = [dict(part) for part in content], dict(more or {})
    kinds: frozenset[Kind] = frozenset() if family is None else family.needs_names
    as_images = _as_images(videos, pictures, processor, family)
    parts = _named(parts, kinds | {"video"} if as_images else kinds)
    if as_images:
        options = {**options, **({} if family is None else family.one_view)}
        parts, pictures = _frames_as_images(parts, videos, pictures)
        videos = []
    text = _text(parts, processor, following)
    if videos:
        videos = [_whole_patch(video, processor) for video in videos]
        # The frames are already chosen; the metadata tells when each of them is shown.
        options["do_sample_frames"] = False
        # One list for each prompt: processors of transformers 5.12 count them by prompt.
        options["videos"] = [[video.frames for video in videos]]
        ticks = Family.ticks if family is None else family.ticks
        options["video_metadata"] = [metadata_of(video, ticks) for video in videos]
        if all(video.read_size is not None for video in videos):
            # Their frames have the size that the processor makes.
            options["videos_kwargs"] = {"do_resize": False}
    if pictures:
        options["images"] = [list(pictures)]
    try:
        inputs = processor(text=[text], return_tensors="pt", **options)
    except FrameFusionError:
        raise
    except Exception as error:
        if is_out_of_memory(error):
            raise AskError(f"there is not enough memory for {_all_of(content)}; {LESS}") from error
        raise ProcessorError(f"{type(processor).__name__} cannot take {_all_of(content)}: {sentence(error)}") from error
    for name in _SECONDS_PER_GRID:
        if videos and inputs.get(name) is not None:
            inputs[name] = torch.tensor([temporal_patch(processor) * _interval(video) for video in videos])
    return inputs


def sentence(error: BaseException) -> str:
    """The first line of an error's text without its full stop, or its kind where it has none."""
    lines = str(error).strip().splitlines()
    text = lines[0].strip().rstrip(".") if lines else ""
    # The text of these is a bare key or nothing that anybody could read.
    return f"{type(error).__name__} {text}".strip() if not text or isinstance(error, LookupError) else text


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, on a device or on the host, where torch has no class of its own for it."""
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "can't allocate memory" in str(error)


def _all_of(content: Sequence[Mapping[str, str]]) -> str:
    kinds = [part["type"] for part in content if part["type"] in NOUNS]
    named = [f"{noun if kinds.count(kind) == 1 else noun + 's'}" for kind, noun in NOUNS.items() if kind in kinds]
    return f"the {' and the '.join(named)}" if named else "the prompt"


def _as_images(videos: Sequence[Video], pictures: Sequence[Any], processor: Any, family: Family | None) -> bool:
    """Whether frames go in as images; refuses what goes in neither way."""
    takes_videos = getattr(processor, "video_processor", None) is not None
    if not videos or (takes_videos and (family is None or family.mixes or not pictures)):
        return False
    if family is not None and not family.frames_as_images:
        if takes_videos:
            raise AskError(
                f"{family.name} takes videos or photographs in one prompt, not both; ask about them separately"
            )
        raise AskError(
            f"{type(processor).__name__} takes images only, no videos; save the model's own processor beside it"
        )
    return True


def _named(parts: Content, kinds: frozenset[Kind]) -> Content:
    """Words before each of several media that follow each other, where the layout could not tell them apart.

    Neighbours get other first words, because texts that differ in a number alone are the labels of frames.
    """
    named: Content = []
    counts: dict[str, int] = {}
    for position, part in enumerate(parts):
        kind = part["type"]
        around = parts[max(0, position - 1) : position] + parts[position + 1 : position + 2]
        if kind in NOUNS:
            counts[kind] = counts.get(kind, 0) + 1
        if any(kind == wanted for wanted in kinds) and any(other["type"] in NOUNS for other in around):
            noun = "video" if kind == "video" else "picture"
            words = f"{noun.capitalize()} {counts[kind]}" if counts[kind] % 2 else f"And {noun} {counts[kind]}"
            named.append({"type": "text", "text": f"\n{words}\n"})
        named.append(part)
    return named


def _frames_as_images(
    parts: Content, videos: Sequence[Video], pictures: Sequence[Any]
) -> tuple[Content, list[Image.Image]]:
    """The parts with an image and its label in the place of every frame, and all images in order."""
    shown: Content = []
    images: list[Image.Image] = []
    left, photographs = iter(videos), iter(pictures)
    for part in parts:
        video = next(left, None) if part["type"] == "video" else None
        if video is None:
            shown.append(part)
            images += [next(photographs)] if part["type"] == "image" else []
            continue
        # Templates trim each text and join them, so a text before the video goes into its first label.
        lead = shown.pop()["text"].rstrip() if shown and shown[-1]["type"] == "text" else ""
        for frame, label in zip(video.frames, frame_labels(video.timestamps.tolist()), strict=True):
            shown += [{"type": "text", "text": f"{lead}\n{label}"}, {"type": "image"}]
            images.append(Image.fromarray(frame))
            lead = ""
    return shown, images


def _text(parts: Content, processor: Any, following: Sequence[tuple[str, str]] = ()) -> str:
    """The prompt in words, from the processor's chat template; refuses one that leaves a video or picture out."""

    def turn(role: str, content: Content) -> dict[str, Any]:
        return {"role": role, "content": content}

    later = [
        turn(role, [{"type": "text", "text": said}])
        for pair in following
        for role, said in zip(("assistant", "user"), pair, strict=True)
    ]

    def rendered(content: Content) -> str:
        try:
            return processor.apply_chat_template(
                [turn("user", content), *later], add_generation_prompt=True, tokenize=False
            )
        except ValueError as error:
            raise AskError("the processor has no chat template; save one with the model") from error
        except Exception as error:
            raise ProcessorError(f"the chat template refuses the prompt: {sentence(error)}") from error

    text = rendered(parts)
    for kind, noun in NOUNS.items():
        without = [part for part in parts if part["type"] != kind]
        try:
            left_out = len(without) < len(parts) and rendered(without) == text
        except AskError:
            continue  # It insists on what it shows.
        if left_out:
            raise AskError(
                f"the chat template of {type(processor).__name__} leaves every {noun} out; save one with the model "
                "that shows it"
            )
    return text


def metadata_of(video: Video, ticks: int) -> dict[str, Any]:
    """What processors are told about a video, so that position over rate is the time at which a frame is shown.

    Positions in the source over its mean rate would be wrong wherever frames are not evenly spaced, so time is counted
    in ticks of a clock: as many a second as ``fps`` says, and as many frames in all as make the mean rate of the frames
    shown right.
    """
    return {
        "total_num_frames": round(len(video) * _interval(video) * ticks),
        "fps": float(ticks),
        "duration": video.duration,
        "frames_indices": [round(time * ticks) for time in video.timestamps.tolist()],
        "height": video.height,
        "width": video.width,
    }


def _interval(video: Video) -> float:
    """Seconds between the frames shown, for models that have them evenly spaced."""
    times = video.timestamps
    if 1 < len(video) == video.total_frames and times[-1] > times[0]:
        return float(times[-1] - times[0]) / (len(video) - 1)
    # They were taken from equal parts of the playing time.
    return video.duration / len(video)


def temporal_patch(processor: Any) -> int:
    """Frames that one visual token of a video shows."""
    return int(getattr(getattr(processor, "video_processor", None), "temporal_patch_size", None) or 1)


def _whole_patch(video: Video, processor: Any) -> Video:
    """A video of at least one temporal patch: shorter ones show their last frame again, as processors do at the end of
    longer ones."""
    missing = temporal_patch(processor) - len(video)
    if missing <= 0:
        return video
    chosen = [*range(len(video)), *[len(video) - 1] * missing]
    return replace(
        video, frames=video.frames[chosen], timestamps=video.timestamps[chosen], indices=video.indices[chosen]
    )
