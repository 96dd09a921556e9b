"""The same checkpoint in transformers, given the masks that the engine used."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForImageTextToText, AutoProcessor


class Reference:
    """A checkpoint in transformers.

    Args:
        directory: of the checkpoint.
    """

    def __init__(self, directory: Path) -> None:
        self.model = AutoModelForImageTextToText.from_pretrained(directory, dtype=torch.float32).eval()
        self.processor = AutoProcessor.from_pretrained(directory)

    def inputs(self, text: str, videos: Sequence[Any], images: Sequence[Any] = ()) -> dict[str, Any]:
        """What the processor makes of a prompt; ``videos`` are pairs of frames and metadata."""
        options: dict[str, Any] = {"images": list(images)} if images else {}
        if videos:
            known = ("fps", "total_num_frames", "frames_indices", "duration")
            options["videos"] = [frames for frames, _ in videos]
            options["video_metadata"] = [{name: about[name] for name in known} for _, about in videos]
            options["do_sample_frames"] = False
        return dict(self.processor(text=[text], return_tensors="pt", **options))

    def _decoder_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """What the decoder is given for the whole prompt."""
        caught: dict[str, Any] = {}

        class Caught(Exception):  # noqa: N818
            pass

        def catch(module: Any, args: Any, kwargs: dict[str, Any]) -> None:
            caught.update(kwargs)
            raise Caught

        handle = self.model.model.language_model.register_forward_pre_hook(catch, with_kwargs=True)
        with contextlib.suppress(Caught), torch.no_grad():
            self.model(**inputs)
        handle.remove()
        return caught

    def positions(self, inputs: dict[str, Any]) -> torch.Tensor:
        """``(3, N)`` of the whole prompt."""
        given = self._decoder_inputs(inputs)["position_ids"]
        # None for text alone.
        return torch.arange(inputs["input_ids"].shape[1]).expand(3, -1) if given is None else given[-3:, 0]

    def kept(self, inputs: dict[str, Any], masks: Sequence[torch.Tensor]) -> torch.Tensor:
        """``(N,)`` bool: the columns that stay, one mask for each video."""
        columns = torch.ones(inputs["input_ids"].shape[1], dtype=torch.bool)
        if masks:
            columns[inputs["input_ids"][0] == self.model.config.video_token_id] = torch.cat(list(masks)).cpu()
        return columns

    @torch.no_grad()
    def first_logprobs(
        self, inputs: dict[str, Any], masks: Sequence[torch.Tensor], positions: torch.Tensor
    ) -> torch.Tensor:
        """``(vocabulary,)`` log-probabilities of what follows the prompt without what the masks drop."""
        given, keep = self._decoder_inputs(inputs), self.kept(inputs, masks)
        hidden = self.model.model.language_model(
            inputs_embeds=given["inputs_embeds"][:, keep], position_ids=positions[:, None, keep], use_cache=False
        ).last_hidden_state
        return self.model.lm_head(hidden[0, -1]).log_softmax(-1)

    @torch.no_grad()
    def tokens(
        self, inputs: dict[str, Any], masks: Sequence[torch.Tensor], positions: torch.Tensor, count: int
    ) -> list[int]:
        """Greedy tokens of the prompt without what the masks drop, each step computed from the beginning.

        Args:
            inputs: of the whole prompt.
            masks: one for each video.
            positions: ``(3, N)`` of the whole prompt.
            count: how many tokens.
        """
        given, keep = self._decoder_inputs(inputs), self.kept(inputs, masks)
        embeddings, positions = given["inputs_embeds"][:, keep], positions[:, keep]
        deep: dict[str, Any] = {}
        if given.get("deepstack_visual_embeds") is not None:
            of_visual = keep[given["visual_pos_masks"][0]]
            deep["visual_pos_masks"] = given["visual_pos_masks"][:, keep]
            deep["deepstack_visual_embeds"] = [layer[of_visual] for layer in given["deepstack_visual_embeds"]]
        made: list[int] = []
        for _ in range(count):
            hidden = self.model.model.language_model(
                inputs_embeds=embeddings, position_ids=positions[:, None], use_cache=False, **deep
            ).last_hidden_state
            made.append(int(self.model.lm_head(hidden[:, -1]).argmax()))
            new = self.model.get_input_embeddings()(torch.tensor([[made[-1]]]))
            embeddings = torch.cat([embeddings, new], 1)
            positions = torch.cat([positions, (positions.max() + 1).expand(3, 1)], 1)
            if deep:
                shown = deep["visual_pos_masks"]
                deep["visual_pos_masks"] = torch.cat([shown, shown.new_zeros(1, 1)], 1)
        return made
