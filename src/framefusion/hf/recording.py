"""Recording of the attention that tokens receive, beside whatever attention implementation a model uses.

While attached, the attention modules of the decoder see their config through a :class:`RecordingConfig`. It names
this module's attention function only while the very module is asked to record, in the very context that asked;
everything else passes through to the real config. So no shared state is swapped during a call, and
``set_attn_implementation`` keeps working.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from framefusion.errors import StateError
from framefusion.reduction.relevance import attention_received

NO_COPIES = (
    "the model has a reduction attached and cannot be copied or pickled with it; call detach() on its handle first."
)
_NAME = "framefusion_recording"


class Recorder:
    """Records one attention module once.

    Args:
        module: the attention module of the layer that is about to run.
        rows: ``(B, R)`` query rows, -1 for none.
        valid: ``(B, P + n)`` bool, False for padding; the first ``P`` keys are of earlier turns.
        per_viewer: see :func:`framefusion.reduction.relevance.attention_received`.
        whole: whether what the keys of earlier turns received is kept as well.
    """

    def __init__(
        self, module: nn.Module, rows: Tensor, valid: Tensor, *, per_viewer: bool, whole: bool = False
    ) -> None:
        self.module, self.rows, self.valid, self.per_viewer, self.whole = module, rows, valid, per_viewer, whole
        self.received: Tensor | None = None

    def record(self, query: Tensor, key: Tensor, mask: Any, scaling: float | None, softcap: float | None) -> None:
        """Keep the attention that the ``n`` new tokens received, ``(B, n)`` float32, or all keys, ``(B, P + n)``."""
        factor = query.shape[-1] ** -0.5 if scaling is None else scaling
        rows, valid = self.rows.to(query.device), self.valid.to(query.device)
        keys, length = valid.shape[1], query.shape[2]
        own = mask[..., :keys] if isinstance(mask, Tensor) and mask.ndim == 4 else None
        with torch.autocast(query.device.type, enabled=False):
            # A static cache hands over its whole buffers.
            received = attention_received(
                query, key[:, :, :keys], rows, valid, factor, mask=own, per_viewer=self.per_viewer, softcap=softcap
            )
        self.received = received if self.whole else received[:, keys - length :]


active: ContextVar[Recorder | None] = ContextVar("framefusion_recorder", default=None)
"""The recorder that waits for its module to run, in this context."""


class RecordingConfig:
    """A config that names the recording attention function while its module is asked to record."""

    def __init__(self, config: Any, module: nn.Module) -> None:
        self.__dict__.update(_config=config, _module=module)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            # Copying and pickling look for special methods on an object that is not filled yet.
            raise AttributeError(name)
        if name == "_attn_implementation":
            recorder = active.get()
            if recorder is not None and recorder.module is self._module:
                return _NAME
        return getattr(self._config, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._config, name, value)

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise StateError(NO_COPIES)


def install(module: Any) -> Callable[[], None]:
    """Let an attention module record on request; returns the function that undoes it."""
    original = module.config
    module.config = RecordingConfig(original, module)

    def uninstall() -> None:
        module.config = original

    return uninstall


def _attention(module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any, **kwargs: Any) -> Any:
    recorder = active.get()
    if recorder is not None:
        # From here on the module sees its real config: flash attention picks its kernel by it.
        active.set(None)
        recorder.record(query, key, attention_mask, kwargs.get("scaling"), kwargs.get("softcap"))
    function = attention_function(module, module.config._attn_implementation)
    return function(module, query, key, value, attention_mask, **kwargs)


def attention_function(module: Any, implementation: str) -> Any:
    """The function of this name, or that of the module's own file for ``"eager"``."""
    eager: Any = getattr(sys.modules[type(module).__module__], "eager_attention_forward", None)
    return ALL_ATTENTION_FUNCTIONS.get_interface(implementation, eager)


AttentionInterface.register(_NAME, _attention)
