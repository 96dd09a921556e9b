"""What a model family has to tell: where its visual tokens are. The hooks know no model beyond this."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from torch import Tensor, nn

from framefusion.errors import ArgumentError, FrameFusionError
from framefusion.hf.towers.base import Tower
from framefusion.reduction.layout import Kind, VisualItem, VisualLayout

GRID = "framefusion_grid"
"""Attribute of features that carry their grid, see :attr:`Family.carried`."""


class UnsupportedModelError(FrameFusionError, ValueError):
    """The model is of no supported family, or configured in a way that reduction does not support."""


@dataclass(frozen=True)
class Call:
    """What the multimodal model was called with, for one forward pass.

    Attributes:
        input_ids: ``(B, N)`` int64, or None.
        position_ids: as the decoder gets them: ``(B, N)``, or ``(3 or 4, B, N)`` for M-RoPE, or None.
        arguments: all arguments of the call by name.
    """

    input_ids: Tensor | None
    position_ids: Tensor | None
    arguments: Mapping[str, Any]

    def has(self, modality: str) -> bool:
        """Whether a ``"video"`` or ``"image"`` came with the call, as pixels or encoded; else its placeholders are
        nothing but text."""
        pixels = {"video": "pixel_values_videos", "image": "pixel_values"}[modality]
        return self.arguments.get(pixels) is not None or self.encoded(modality) is not None

    @property
    def has_visual(self) -> bool:
        """Whether a video or an image came with the call."""
        return self.has("video") or self.has("image")

    def placeholders(self, b: int, token_id: int) -> Tensor:
        """``(n,)`` int64 on the CPU: the columns of sample ``b`` that hold this placeholder."""
        assert self.input_ids is not None
        return (self.input_ids[b] == token_id).nonzero().squeeze(-1).cpu()

    def encoded_sizes(self, modality: str) -> list[int] | None:
        """Tokens of each video or image that ``generate()`` encoded ahead, over the whole batch, in order."""
        output = self.encoded(modality)
        if output is None:
            return None
        features = getattr(output, "pooler_output", output)
        return [len(item) for item in features]

    def grids(self, modality: str, argument: str) -> list[tuple[int, ...]] | None:
        """The grid of each video or image of the batch, in order: a row of what the call brings in ``argument``, or
        what their features carry, see :attr:`Family.carried`; None where neither does."""
        given = self.arguments.get(argument)
        if given is not None:
            return [tuple(grid) for grid in given.tolist()]
        features = getattr(self.encoded(modality), "pooler_output", None)
        carried = [getattr(item, GRID, None) for item in ([] if features is None else features)]
        return [grid for grid in carried if grid is not None] if carried and None not in carried else None

    def encoded(self, modality: str) -> Any:
        """The encoder output that ``generate()`` computed ahead for ``"video"`` or ``"image"``, or None."""
        encoded = self.arguments.get("mm_encoder_outputs")
        return encoded.get(modality) if isinstance(encoded, Mapping) else None


class Family(ABC):
    """One model family: a stateless object in the registry."""

    name: str
    """As users know it."""
    model_classes: tuple[str, ...]
    """Class names of ``transformers`` that belong to the family, the one with the language-model head first."""
    placeholder: str
    """Which placeholder marks a visual token, and how the tokens lie."""
    verified: str
    """How the family was checked."""
    all_tokens: Mapping[str, Any] = MappingProxyType({})
    """Options with which the family's processor leaves no token of a video out, whatever it shows."""
    mixes: bool = True
    """Whether the family's processor takes videos and images in one prompt."""
    needs_names: frozenset[Kind] = frozenset()
    """Kinds whose neighbours in a prompt would count as one item: words have to stand between them."""
    frames_as_images: bool = False
    """Whether a prompt has an image for every frame where the processor takes no videos, or none beside images."""
    one_view: Mapping[str, Any] = MappingProxyType({})
    """Options with which the processor makes one view of every image, for frames that go in as images."""
    projector: tuple[str, ...] = ()
    """Where in the multimodal model the modules are that bring the tower's features to the decoder's width, as
    ``"visual.merger"``; a name that a model lacks is passed over. Without one the time and the operations of the vision
    encoder are not told apart."""

    grows: bool = True
    """Whether the tokens and positions of a video's frames stay as they are when frames come behind them."""
    numbered: str | None = None
    """Pattern of the words before each frame of a video in which the processor counts them, the number as its group."""
    ticks: int = 1_000_000
    """Of a second: in which the processor is told when each frame is shown."""
    looks_ahead: bool = False
    """Whether visual tokens attend to later ones, which no attention implementation without dense masks follows."""
    closing: int = 0
    """Tokens behind the last visual one that belong to it, not to the text, at most: by their positions, or because
    visual tokens attend to them."""
    carried: Mapping[Kind, str] = MappingProxyType({})
    """The argument of the encoder that has the grids of a kind, where nothing else tells frames apart once
    ``generate()`` has encoded ahead: each item's features then carry its grid, for :meth:`Call.grids`."""
    tower: Tower | None = None
    """The kind of the family's vision tower, for ``tower``; None where it cannot be followed."""
    no_tower: str = "nobody has told what its vision tower is like"
    """Why not, without a ``tower``."""
    tells_encoder: bool = False
    """Whether :meth:`encoder_attention` of some model of the family tells a module."""
    groups_in_windows: bool = False
    """Whether the patches of an image see each other in layers with windows alone, as far as the window reaches; else
    in all layers, or in none."""
    per_layer: tuple[str, str] | None = None
    """Where decoder layers take an input of their own for every token, beside the hidden states: the decoder's argument
    with those of all layers, and a layer's with its own, ``(B, N, D')``."""

    def per_layer_inputs(self, decoder: Any, arguments: Mapping[str, Any]) -> Tensor | None:
        """What the layers of a decoder will be called with in the place of :attr:`per_layer`.

        Args:
            decoder: of the model.
            arguments: those that it is called with, by name.

        Returns:
            ``(B, N, layers, D')``, or None where this decoder has no such inputs.
        """
        return None

    def longest(self, config: Any) -> int | None:
        """Columns of a conversation up to which a decoder of this config can be reduced; None (default) for all."""
        return None

    def tokens_of(self, hidden: Tensor) -> Tensor:
        """``(B, n, D)``: the hidden states of a decoder layer, a row for each token; where a decoder has several states
        of a token, all of them in one row."""
        return hidden

    def hidden_of(self, tokens: Tensor, like: Tensor) -> Tensor:
        """The hidden states that :meth:`tokens_of` has in rows ``(B, n, D)``, in the form of ``like``."""
        return tokens

    frames_apart: bool = False
    """Whether the vision encoder of videos never looks from one frame, or temporal patch, to another, so that a video
    may be encoded in groups of them; see :mod:`framefusion.hf.frame_groups`."""

    def temporal_merge(self, config: Any, kind: Kind) -> int:
        """Temporal patches of a video's grid that one token stands for, where the encoder is told grids."""
        return 1

    def projected(self, model: Any, output: Any) -> Any:
        """What the decoder is given of an encoder's output, with what of the projector is outside of
        ``get_video_features()`` and ``get_image_features()``; by default the output itself.

        Args:
            model: the multimodal model (without the head).
            output: of either.
        """
        return output

    def encoder_attention(self, model: Any) -> nn.Module | None:
        """The module whose attention says how much the vision encoder looks at each patch, for
        ``relevance="encoder"``: the attention of its last layer, without a mask, or the ``nn.MultiheadAttention`` of
        its pooling head; None (default) where nobody has told.

        Args:
            model: the multimodal model (without the head).
        """
        return None

    def encoder_scores(
        self, model: Any, kind: Kind, received: Sequence[Tensor], arguments: Mapping[str, Any]
    ) -> Tensor | None:
        """What the visual tokens received, of what the patches received; merged as the projector merges patches.

        Args:
            model: the multimodal model (without the head).
            kind: what was encoded.
            received: ``(B, P)`` of the patches of ``B`` frames, views or chunks, once for each time that the module's
                attention function ran.
            arguments: of ``get_video_features()`` or ``get_image_features()``.

        Returns:
            ``(N,)`` of all visual tokens of the call, in order; None where the family cannot say, as for this kind.
        """
        return None

    def token_arguments(self, model: Any, ids: Tensor) -> Mapping[str, Tensor]:
        """Arguments of the decoder's layers that have an entry for each token, beside hidden states and positions; none
        by default. Where a layer is called with one, it gets the entries of the tokens that are there.

        Args:
            model: the multimodal model (without the head).
            ids: ``(B, N)`` int64.

        Returns:
            ``(B, N)`` each, on any device.
        """
        return {}

    @abstractmethod
    def layouts(self, model: Any, call: Call) -> list[VisualLayout]:
        """The visual tokens of each sample, on the CPU; empty layouts for samples without any.

        Args:
            model: the multimodal model (without the head).
            call: what it was called with; ``input_ids`` is present.

        Raises:
            ValueError: the placeholders do not match the video's size.
        """


def take_items(kind: Kind, columns: Tensor, grids: Iterable[tuple[int, int, int]], where: str) -> list[VisualItem]:
    """Cut the placeholder columns of one sample into items, each with as many as its grid has cells.

    Args:
        kind: of the items.
        columns: ``(n,)`` int64, the columns that hold the placeholder, in one run per item or in several.
        grids: ``(T, H, W)`` in tokens of the items of the batch; as many are taken as the columns hold.
        where: the argument that holds the placeholders, for the error: ``"input_ids[0]"``.

    Raises:
        ValueError: the columns are no whole number of items.
    """
    items, first, source = [], 0, iter(grids)
    while first < len(columns):
        t, h, w = next(source, (0, 0, 0))
        if not t * h * w or first + t * h * w > len(columns):
            rest = f"the next {kind}'s {t}×{h}×{w}" if t * h * w else f"no {kind} whose size is known"
            raise ArgumentError(
                f"{where} has {len(columns)} {kind} tokens; {len(columns) - first} of them belong to {rest}. Pass the "
                "inputs as the processor makes them, the whole prompt at once."
            )
        items.append(VisualItem(kind, (t, h, w), columns[first : first + t * h * w]))
        first += t * h * w
    return items


def layout_of(items: list[VisualItem]) -> VisualLayout:
    """The layout of one sample's items, in any order."""
    return VisualLayout.of(sorted(items, key=lambda item: int(item.columns[0])))
