"""Which patches of a picture merge inside a vision tower: bipartite soft matching. Pure tensors, no model.

ToMe: Bolya et al., "Token Merging: Your ViT But Faster", ICLR 2023, arXiv 2210.09461.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from framefusion.checks import check_number
from framefusion.errors import ArgumentError


@dataclass(frozen=True)
class ToMe:
    """The vision tower merges patches of a frame that look alike to it, behind each of its blocks but the last.

    Behind every block the same number merges, as in the paper (arXiv 2210.09461): the fewer blocks a tower has, the
    more at once, and that loses more (``docs/how-it-works/tower.md``).

    Attributes:
        work: patches that run through a block, averaged over the blocks, as a share of all, in (0.5, 1]. Default 2/3,
            1.5 times less work.

    Raises:
        ValueError: ``work`` is no number in [0, 1]; how little a tower can do is known when it is attached to.
    """

    work: float = 2 / 3

    def __post_init__(self) -> None:
        check_number("ToMe.work", self.work, 0, 1)

    def check(self, blocks: int) -> None:
        """Can a tower of so many blocks be left so little work?

        Raises:
            ValueError: at some block more than half of what is left would have to merge; says how little it can be.
        """
        if self._step(blocks) * blocks > 1 + 1e-9:
            raise ArgumentError(
                f"ToMe.work must be at least {1 - (blocks - 1) / (2 * blocks):.3f} for a vision tower of {blocks} "
                f"blocks, got {self.work:g}: behind each of them at most half of the patches can merge."
            )

    def counts(self, rows: int, blocks: int, fixed: int = 0) -> list[int]:
        """How many rows of a picture run through each block.

        Args:
            rows: of the picture.
            blocks: of the tower.
            fixed: rows among them that never merge.
        """
        patches, step = rows - fixed, self._step(blocks)
        counts = [patches]
        for block in range(1, blocks):
            # Rounding may not ask for more than half.
            counts.append(max(round(patches * (1 - step * block)), (counts[-1] + 1) // 2))
        return [fixed + count for count in counts]

    def _step(self, blocks: int) -> float:
        """Share of all that merges behind a block."""
        return 0.0 if blocks == 1 else 2 * (1 - self.work) / (blocks - 1)


def merged_places(rows: Tensor, count: int, fixed: int = 0) -> tuple[Tensor, Tensor]:
    """Every second row looks for the most similar of the others, and the ``count`` that find one most alike merge into
    it.

    Args:
        rows: ``(B, n, d)``, any float dtype: of ``B`` pictures, compared by cosine.
        count: rows of each that merge, at most ``(n - fixed) // 2``.
        fixed: rows at the beginning that never merge, such as a class token.

    Returns:
        ``(B, n)`` int64, the place of each row among the ``n - count`` that are left, which keep their order; and
        ``(B, n - count)`` int64, the row that each of these was.
    """
    unit = torch.nn.functional.normalize(rows.float(), dim=-1)
    # (B, a, b): of the second, fourth, … row behind the fixed ones to the first, third, …
    similarity = unit[:, fixed + 1 :: 2] @ unit[:, fixed::2].transpose(1, 2)
    best, nearest = similarity.max(-1)
    chosen = best.argsort(dim=-1, descending=True, stable=True)[:, :count]
    sources, targets = fixed + 1 + 2 * chosen, fixed + 2 * nearest.gather(1, chosen)
    left = torch.ones(rows.shape[:2], dtype=torch.bool, device=rows.device).scatter_(1, sources, False)
    places = left.cumsum(1) - 1
    kept = left.nonzero()[:, 1].view(len(rows), -1)
    return places.scatter(1, sources, places.gather(1, targets)), kept
