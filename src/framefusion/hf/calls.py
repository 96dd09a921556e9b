"""The cache among the arguments of a call, whatever this release of ``transformers`` names it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any


def cache_of(kwargs: Mapping[str, Any]) -> Any:
    """The cache among the arguments of a decoder or of one of its layers, None without one.

    transformers 5.24 renamed ``past_key_values`` to ``cache``; a hook sees the name that the caller used.
    """
    cache = kwargs.get("cache")
    return kwargs.get("past_key_values") if cache is None else cache


def cache_argument(function: Callable[..., Any], cache: Any) -> dict[str, Any]:
    """``cache`` by the name that ``function`` of transformers has for it."""
    return {"cache" if "cache" in inspect.signature(function).parameters else "past_key_values": cache}
