"""framefusion inside vLLM: segment-wise DPP instead of the engine's own video pruning.

vLLM finds :func:`register` through the entry-point group ``vllm.general_plugins``. Nothing changes until an engine asks
for it in its own configuration::

    --additional-config '{"framefusion": {"rate": 0.8}}'

Only :mod:`framefusion.vllm.hooks` and :mod:`framefusion.vllm.qwen` touch vLLM; the rest are pure tensors and numbers.
See ``docs/guides/serving.md``.
"""

from __future__ import annotations


def register() -> None:
    """What the entry point is asked for, in every process of the engine: watch for configurations that name us."""
    from framefusion.vllm.hooks import watch_configurations

    watch_configurations()
