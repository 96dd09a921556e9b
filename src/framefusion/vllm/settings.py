"""The settings of an engine: which rule selects, as ``--additional-config '{"framefusion": {…}}'`` says it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from framefusion.checks import is_number, is_whole
from framefusion.errors import ArgumentError
from framefusion.reduction.amounts import AUTO
from framefusion.reduction.flat import FLAT, with_flat_names
from framefusion.reduction.plain import rules_from_plain
from framefusion.reduction.rules import rule_field
from framefusion.reduction.selection import Selection
from framefusion.reduction.selectors import NEED_RELEVANCE
from framefusion.reduction.settings import FrameFusion
from framefusion.reduction.settings_file import load_settings
from framefusion.reduction.sources import Relevance, relevance_of

RATE = "rate"
"""Names the share to drop."""

FILE = "settings_file"
"""Names a settings file instead of the settings."""

RELEVANCE = ("none", "dissimilarity")
"""What an engine can go by: it selects before the decoder and does not know the question."""

_NO_TOWER = "the engine runs vision towers of its own, which encode whole frames"


@with_flat_names
@dataclass(frozen=True, kw_only=True)
class ServingSettings(Selection):
    """How an engine selects the tokens of a video, behind its encoder; how many go is its rate.

    What :class:`framefusion.FrameFusion` has as well means the same here and has the same default, but relevance,
    whose default there, ``"late-text"``, is none at the input.

    Attributes:
        segmentation, budget_rule, selector, seed: see :class:`~framefusion.reduction.selection.Selection`.
        relevance: ``"none"`` (default; diversity alone) or ``"dissimilarity"``. Attention and the question are not
            known where an engine selects.
        minimum_per_frame: tokens that every frame keeps at least (a temporal patch of the encoder counts as one
            frame), if it has so many. Default 1, so that no frame and no segment is ever lost.
        keep_first_frame: whether the first frame keeps all its tokens, as EVS does. Default False.

    Raises:
        ValueError: names the setting, what was wrong and what to do.
    """

    relevance: Relevance = rule_field(Relevance("none"), relevance_of)
    minimum_per_frame: int = 1
    keep_first_frame: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        source = self.relevance.source
        if source not in RELEVANCE:
            raise ArgumentError(
                f"relevance must be one of {', '.join(map(repr, RELEVANCE))}, got {source!r}: an engine "
                "selects before the decoder, where attention and the question are not known."
            )
        if self.selector_name in NEED_RELEVANCE and source == "none":
            raise ArgumentError(
                f"selector={self.selector_name!r} ranks by relevance; say relevance='dissimilarity' with it."
            )
        if not is_whole(self.minimum_per_frame):
            raise ArgumentError(f"minimum_per_frame must be a whole number of tokens, got {self.minimum_per_frame!r}.")
        if self.minimum_per_frame < 0:
            raise ArgumentError(f"minimum_per_frame must be at least 0 tokens, got {self.minimum_per_frame}.")
        if not isinstance(self.keep_first_frame, bool):
            raise ArgumentError(f"keep_first_frame must be true or false, got {self.keep_first_frame!r}.")
        if self.keep_first_frame and source == "dissimilarity":
            raise ArgumentError(
                "keep_first_frame and relevance='dissimilarity' exclude each other: the first frame is left out of the "
                "selection, so that every token of the second would count as new. Leave one of them out."
            )
        self.reduction(0.5)

    @classmethod
    def parse(cls, value: object) -> tuple[ServingSettings, float | None]:
        """From what stands behind ``"framefusion"`` in ``--additional-config``.

        Args:
            value: a mapping of the attributes, of flat names, or of objects for rules with parameters as in a settings
                file; ``True`` for the defaults. It may have a ``rate``, the share of the
                tokens to drop, in [0, 1). Instead of the rate and what else a settings file says, as ``framefusion
                calibrate`` writes it, the file may be named: ``settings_file``.

        Returns:
            The settings, and the rate; None if nothing says it.

        Raises:
            ValueError: names the setting, what was wrong and what to do.
        """
        if value is True:
            return cls(), None
        if not isinstance(value, Mapping):
            raise ArgumentError(
                f"must be an object of settings or true, got {value!r}; {{}} selects with the defaults, and without "
                "the key the engine's own rule stays."
            )
        given = dict(value)
        path, rate = given.pop(FILE, None), given.pop(RATE, None)
        known = [field.name for field in fields(cls)]
        known += [name for name, places in FLAT.items() if any(field in known for field, _ in places)]
        if "tower" in given:
            raise ArgumentError(f"'tower' cannot be followed: {_NO_TOWER}; leave it out.")
        for name in given:
            if name not in known:
                raise ArgumentError(f"{name!r} is no setting; there are {', '.join([*known, RATE, FILE])}.")
        if rate is not None and not (is_number(rate) and 0 <= rate < 1):
            raise ArgumentError(f"{RATE} must be a number in [0, 1), the share of the tokens to drop, got {rate!r}.")
        if path is not None:
            filed, share = _of_file(path)
            twice = [name for name in given if name in filed or name in FLAT] + [RATE] * (rate is not None)
            if twice:
                raise ArgumentError(f"{twice[0]} is given beside {FILE}, which says it too; leave one of them out.")
            given, rate = given | filed, round(1 - share, 12)
        return cls(**rules_from_plain(given)), rate

    def reduction(self, keep: float) -> FrameFusion:
        """The same as one stage before the decoder that keeps a share of the tokens."""
        return FrameFusion(keep={0: keep}, dropped="drop", **_selection(self))

    def __str__(self) -> str:
        return ", ".join(f"{field.name}={getattr(self, field.name)!r}" for field in fields(self))


def _of_file(path: object) -> tuple[dict[str, Any], float]:
    """What a settings file says about the selection, and the share it keeps."""
    if not isinstance(path, str):
        raise ArgumentError(f"{FILE} must be the name of a file, got {path!r}.")
    filed = load_settings(path)
    share = _share_at_input(filed)
    if share is None:
        what = "these settings do more" if filed.stages is None else f"these have stages={filed.stages}"
        raise ArgumentError(
            f"{FILE} {path}: an engine prunes once, before the decoder, to an exact share; {what}. "
            "Calibrate with --method segment-dpp-input."
        )
    if filed.tower is not None:
        raise ArgumentError(f"{FILE} {path}: {_NO_TOWER}; calibrate without tower.")
    if filed.dropped != "drop":
        raise ArgumentError(f"{FILE} {path}: an engine drops tokens, it cannot merge them; dropped must be 'drop'.")
    shared = _selection(filed)
    if filed.relevance.source == "late-text":
        shared["relevance"] = replace(filed.relevance, source="none")
    return shared, share


def _share_at_input(settings: FrameFusion) -> float | None:
    """What stays behind one pruning before the decoder; None if that is not all that the settings do."""
    if settings.merging or settings.adaptive or settings.stages == AUTO:
        return None
    if isinstance(settings.keep, Mapping) and list(settings.keep) == [0]:
        return float(settings.keep[0])
    at_input = settings.steps == ((0.0, 1.0),)
    return float(settings.cost) if at_input and isinstance(settings.cost, float | int) else None


def _selection(settings: Selection) -> dict[str, Any]:
    """Which tokens stay, of settings that say more."""
    return {field.name: getattr(settings, field.name) for field in fields(Selection)}
