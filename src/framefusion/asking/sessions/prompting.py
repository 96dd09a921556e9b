"""The prompts of a session: what is added behind a prefix, and the text of a question."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch

from framefusion.asking.encodings import Prompt
from framefusion.asking.frames import SPACING, frames_of
from framefusion.asking.media import Media
from framefusion.asking.prompts import AskError, ProcessorError, content_of, temporal_patch, turn_inputs
from framefusion.asking.sessions import spent
from framefusion.asking.sessions.shown import Item, joined
from framefusion.asking.together import text_from
from framefusion.asking.video import Video
from framefusion.hf import Run
from framefusion.hf.families import find, layouts_of, unwrapped
from framefusion.hf.prefix import Prefix, media_end
from framefusion.reduction.layout import VisualLayout, runs

_ANY = "What is shown?"
"""The question of a prompt of which only what is before it counts."""


class Tail(NamedTuple):
    """The text behind a prefix."""

    prefix: Prefix
    """With what closes the last video before the text."""
    text: Prompt
    """What has an entry for each of its tokens."""


def _prompt(
    media: Sequence[Media], question: str, model: Any, processor: Any, following: Sequence[tuple[str, str]] = ()
) -> tuple[dict[str, Any], VisualLayout]:
    videos = [medium for medium in media if isinstance(medium, Video)]
    pictures = [medium for medium in media if not isinstance(medium, Video)]
    with spent.current().processing():
        inputs = dict(turn_inputs(content_of(media, question), videos, pictures, model, processor, following))
    (layout,) = layouts_of(model, inputs)
    if len(layout.grids) != len(media):
        raise AskError(
            f"{type(processor).__name__} shows {len(media)} videos and photographs as {len(layout.grids)}, so that "
            "none of them can be added to by itself"
        )
    return inputs, layout


def _end(layout: VisualLayout, items: int, closing: int) -> int:
    """The column behind the last visual token of some items."""
    columns = layout.columns[layout.item < items]
    return int(columns[-1]) + 1 + closing if len(columns) else 0


def _closing(model: Any) -> int:
    """Tokens behind an item, and behind every frame of a video that may go on, that belong to it for good."""
    return find(unwrapped(model)).closing


def begun(run: Run, prefix: Prefix | None, items: Sequence[Item], new: Media, model: Any, processor: Any) -> Prefix:
    """The prefix with another video or photograph behind what it holds."""
    shown = [item.stand_in for item in items]
    try:
        inputs, layout = _prompt([*shown, new], _ANY, model, processor)
    except ProcessorError:
        # Some processors stack videos, and take only those with as many frames as each other.
        as_long = [_as_long(one, new) for one in shown]
        if all(one is other for one, other in zip(shown, as_long, strict=True)):
            raise
        inputs, layout = _prompt([*as_long, new], _ANY, model, processor)
    closing = _closing(model)
    columns = _end(layout, len(items), closing), _end(layout, len(items) + 1, closing)
    return run.extend(inputs, prefix, columns=columns)


def _as_long(stand_in: Media, new: Media) -> Media:
    """A video with as many frames as another one that is longer: the last is shown again."""
    if not (isinstance(stand_in, Video) and isinstance(new, Video)) or len(stand_in) >= len(new):
        return stand_in
    again = [stand_in.frames[-1]] * (len(new) - len(stand_in))
    return joined(stand_in, frames_of(again, None, float(stand_in.timestamps[-1]) + SPACING))


def continued(run: Run, prefix: Prefix, item: Item, new: Video, model: Any, processor: Any) -> Prefix:
    """The prefix with more of its last video."""
    assert isinstance(item.stand_in, Video)
    shown = _gone_on(item.stand_in, new, temporal_patch(processor))
    inputs, layout = _prompt([shown], _ANY, model, processor)
    if find(unwrapped(model)).numbered is not None:
        inputs = _renumbered(inputs, layout, item, model, processor)
        (layout,) = layouts_of(model, inputs)
    # The stand-in fills one temporal patch. What closes a frame is held with it.
    closing = _closing(model)
    first = int(layout.columns[layout.frame < 1][-1]) + 1 + closing
    return run.extend(inputs, prefix, columns=(first, _end(layout, 1, closing)), continues=True)


def _gone_on(stand_in: Video, new: Video, patch: int) -> Video:
    """What stands for a video with new frames behind it. One that was shorter than a temporal patch shows its first
    frame again, so that no new one is taken for a frame of that patch, which is held."""
    video, lacking = joined(stand_in, new), max(patch - len(stand_in), 0)
    chosen = [0] * lacking + [*range(len(video))]
    return replace(
        video,
        frames=video.frames[chosen] if lacking else video.frames,
        timestamps=video.timestamps[chosen],
        indices=video.indices[chosen],
        duration=video.duration * len(chosen) / len(video),
    )


def _renumbered(inputs: dict[str, Any], layout: VisualLayout, item: Item, model: Any, processor: Any) -> dict[str, Any]:
    """A prompt whose words before each frame count on from the frames that an item has."""
    pattern, tokenizer = find(unwrapped(model)).numbered, processor.tokenizer
    assert pattern is not None
    assert isinstance(item.stand_in, Video)
    already = item.frames - (0 if item.pending is None else len(item.pending))
    more = already - len(item.stand_in)
    ids, parts, at = inputs["input_ids"][0], [], 0
    for first, end in runs(torch.isin(torch.arange(len(ids)), layout.columns)):
        words = tokenizer.decode(ids[at:first], clean_up_tokenization_spaces=False)
        # Ahead of the first label stands what is no label.
        if at:
            counted = re.sub(pattern, lambda found: _plus(found, more), words)
        else:
            *_, own = re.finditer(pattern, words)
            counted = words[: own.start()] + _plus(own, more) + words[own.end() :]
        said = ids[at:first].tolist()
        if counted != words:
            said = tokenizer(counted, add_special_tokens=False)["input_ids"]
        parts += [torch.tensor(said, dtype=ids.dtype, device=ids.device), ids[first:end]]
        at = end
    whole = torch.cat([*parts, ids[at:]])[None]
    return {**inputs, "input_ids": whole, "attention_mask": torch.ones_like(whole)}


def _plus(found: re.Match[str], more: int) -> str:
    """What a pattern found, with a number larger by ``more``."""
    first, end = found.span(1)
    text, begin = found[0], found.start()
    return f"{text[: first - begin]}{int(found[1]) + more}{text[end - begin :]}"


def asked(
    run: Run,
    prefix: Prefix,
    items: Sequence[Item],
    question: str,
    model: Any,
    processor: Any,
    following: Sequence[tuple[str, str]] = (),
) -> Tail:
    """The text of a question behind a prefix.

    Args:
        run: the reduction that is attached.
        prefix: what is held.
        items: what it shows.
        question: the first one.
        model: the model.
        processor: its processor.
        following: an answer and the next question each, behind it.
    """
    inputs, layout = _prompt([item.stand_in for item in items], question, model, processor, following)
    first, end = _end(layout, len(items), _closing(model)), media_end(model, inputs)
    if end > first:
        # A newline at the end of a video has a placeholder, whose embedding only the model knows.
        prefix = run.extend(inputs, prefix, columns=(first, end), continues=items[-1].is_video)
    return _tail(prefix, inputs, end)


def asked_all(
    run: Run, prefix: Prefix, items: Sequence[Item], questions: Sequence[str], model: Any, processor: Any
) -> list[Tail]:
    """The texts of several questions behind one prefix, none of which sees another; arguments as of :func:`asked`."""
    tails = [asked(run, prefix, items, questions[0], model, processor)]
    for question in questions[1:]:
        inputs, _ = _prompt([item.stand_in for item in items], question, model, processor)
        tails.append(_tail(tails[0].prefix, inputs, media_end(model, inputs)))
    return tails


def _tail(prefix: Prefix, inputs: Mapping[str, Any], end: int) -> Tail:
    return Tail(prefix, text_from(Prompt(dict(inputs), {}), end))
