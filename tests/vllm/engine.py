"""vLLM in this process, with what its decoder is given written down."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from vllm import LLM, SamplingParams
from vllm.distributed import cleanup_dist_env_and_memory
from vllm.triton_utils import dispatcher

from framefusion.vllm import qwen, rules

SMALL = {
    "dtype": "float32",
    "enforce_eager": True,
    "max_model_len": 4096,
    "max_num_seqs": 8,
    "kv_cache_memory_bytes": 1 << 28,
    "limit_mm_per_prompt": {"video": 3, "image": 3},
    "enable_prefix_caching": False,
}


@dataclass
class Served:
    """An engine, and what it did since the last :meth:`answer` began."""

    llm: Any
    positions: list[torch.Tensor] = field(default_factory=list)
    """``(3, n)`` of each step of the decoder."""
    embeddings: list[torch.Tensor] = field(default_factory=list)
    """``(n, D)`` of each step that had any: what the decoder was given."""
    masks: list[torch.Tensor] = field(default_factory=list)
    """Of each video, in order of encoding."""

    def answer(self, prompts: list[dict[str, Any]], tokens: int = 8, beyond_the_end: bool = True) -> list[Any]:
        """Greedy answers; every video is encoded anew."""
        self.positions.clear()
        self.embeddings.clear()
        self.masks.clear()
        self.llm.llm_engine.reset_encoder_cache()
        greedy = SamplingParams(temperature=0, max_tokens=tokens, ignore_eos=beyond_the_end)
        return self.llm.generate(prompts, greedy, use_tqdm=False)

    def tokens(self, prompts: list[dict[str, Any]], tokens: int = 8) -> list[list[int]]:
        return [list(output.outputs[0].token_ids) for output in self.answer(prompts, tokens)]

    def first_logprobs(self, prompt: dict[str, Any]) -> torch.Tensor:
        """``(vocabulary,)`` log-probabilities of what follows a prompt; needs ``max_logprobs=-1``."""
        greedy = SamplingParams(temperature=0, max_tokens=1, logprobs=-1)
        (output,) = self.llm.generate([prompt], greedy, use_tqdm=False)
        (of_token,) = output.outputs[0].logprobs
        return torch.tensor([of_token[token].logprob for token in sorted(of_token)])

    def prompt_positions(self, prompt: dict[str, Any]) -> torch.Tensor:
        """``(3, N)`` of one prompt, asked alone."""
        (output,) = self.answer([prompt], 1)
        return torch.cat(self.positions, 1)[:, : len(output.prompt_token_ids)]


@contextlib.contextmanager
def serving(model: Any, rate: float | None = None, settings: Any = None, **options: Any) -> Iterator[Served]:
    """An engine in this process; with ``settings`` it selects by framefusion."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
        # The CPU build looks through all modules when an engine starts and trips over llvmlite, which is there once an
        # engine of this process has selected.
        patch.setattr(dispatcher, "vars", _vars, raising=False)
        extra = {} if settings is None else {"additional_config": {"framefusion": settings}}
        llm = LLM(model=str(model), video_pruning_rate=rate, **SMALL | extra | options)
        served = Served(llm)
        runner = llm.llm_engine.engine_core.engine_core.model_executor.driver_worker.worker.model_runner
        decoder = type(runner.model)
        forward, select = decoder.forward, qwen.retention_mask

        def recorded(self: Any, input_ids: Any, positions: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
            served.positions.append(positions.clone())
            if kwargs.get("inputs_embeds") is not None:
                served.embeddings.append(kwargs["inputs_embeds"].clone())
            return forward(self, input_ids, positions, *args, **kwargs)

        def masked(*args: Any) -> torch.Tensor:
            served.masks.append(select(*args))
            return served.masks[-1]

        patch.setattr(decoder, "forward", recorded)
        for hooked in (qwen, rules):
            patch.setattr(hooked, "retention_mask", masked)
        try:
            yield served
        finally:
            llm.llm_engine.engine_core.shutdown()
            del llm, runner, served.llm
            gc.collect()
            cleanup_dist_env_and_memory()


def _vars(value: Any) -> dict[str, Any]:
    found = vars(value)
    return found if isinstance(found, dict) else {}


def with_metadata(frames: np.ndarray, fps: float = 2.0) -> tuple[np.ndarray, dict[str, Any]]:
    """Frames as vLLM takes them when they are chosen already."""
    count = len(frames)
    return frames, {
        "fps": fps,
        "total_num_frames": count,
        "frames_indices": list(range(count)),
        "duration": count / fps,
        "do_sample_frames": False,
    }
