"""What of an attached model ``torch.compile`` traces: everything but the decoder over more than one token.

Where the sequence ends up shorter than it began, sizes depend on data. Dynamo leaves a loop with a graph break in it
uncompiled and goes on with its body, one graph for each decoder layer, until its limit of recompilations ends that. So
a prefill leaves the graph once, at the decoder, and a decoding step is traced as a whole.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

import torch
from torch import Tensor

try:
    from torch._dynamo.eval_frame import skip_code
except ImportError:  # it is not public, and saves no more than a few small graphs
    skip_code = None  # type: ignore[assignment]

_Function = TypeVar("_Function", bound=Callable[..., Any])


def inlined_only(function: _Function) -> _Function:
    """Mark a function as not worth a graph of its own: part of its caller's graph, or else run as it is.

    What it calls may be compiled again.
    """
    if skip_code is not None:
        skip_code(function.__code__)
    return function


def only_steps(forward: Callable[..., Any]) -> Callable[..., Any]:
    """The forward pass of a decoder, compiled for one token and run as it is for more."""
    uncompiled = torch.compiler.disable(forward)

    @wraps(forward)
    @inlined_only
    def decode(*args: Any, **kwargs: Any) -> Any:
        tokens = kwargs.get("inputs_embeds")
        step = isinstance(tokens, Tensor) and tokens.shape[1] == 1
        return forward(*args, **kwargs) if step else uncompiled(*args, **kwargs)

    return decode
