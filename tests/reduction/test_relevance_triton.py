"""The Triton kernels of the attention received against the plain torch version."""

from __future__ import annotations

import pytest
import torch

from framefusion.reduction import relevance

relevance_triton = pytest.importorskip("framefusion.reduction.relevance_triton", exc_type=ImportError)


@pytest.fixture(autouse=True)
def interpreter() -> None:
    if not relevance_triton.INTERPRETED:
        pytest.skip("Triton was imported without TRITON_INTERPRET=1")


@pytest.mark.covering(2)
@pytest.mark.parametrize("kind", ["causal", "bool", "added"])
@pytest.mark.parametrize("per_viewer", [False, True])
@pytest.mark.parametrize(("softcap", "dtype"), [(None, torch.float32), (2.0, torch.bfloat16)])
def test_equals_torch(kind: str, per_viewer: bool, softcap: float | None, dtype: torch.dtype) -> None:
    """Grouped heads, keys of earlier turns, padding, missing rows, the layer's own mask, capped scores."""
    generator = torch.Generator().manual_seed(0)
    batch, heads, groups, held, length, width, asked = 2, 6, 2, 5, 40, 12, 7
    query = torch.randn(batch, heads, length, width, generator=generator).to(dtype)
    # Laid out as a model's projections are: heads inside tokens.
    key = torch.randn(batch, held + length, groups, width, generator=generator).to(dtype).transpose(1, 2)
    valid = torch.ones(batch, held + length, dtype=torch.bool)
    valid[0, :2] = valid[1, held] = False
    rows = torch.stack([torch.randperm(length, generator=generator)[:asked].sort().values for _ in range(batch)])
    rows[0, :2] = -1
    seen = torch.ones(length, held + length, dtype=torch.bool).tril(held)
    mask = None
    if kind != "causal":
        seen = seen.triu(held - 3)
        seen[1:4, held + 1 : held + 4] = True
        mask = seen[None, None] if kind == "bool" else torch.zeros(1, 1, *seen.shape).masked_fill(~seen, -1e9)
    arguments = (query, key, rows, valid, 0.3)
    options = {"mask": mask, "per_viewer": per_viewer, "softcap": softcap}
    expected = relevance.attention_received(*arguments, **options)
    torch.testing.assert_close(relevance_triton.attention_received(*arguments, **options), expected)


@pytest.mark.parametrize("programs", [1, 256])
def test_all_rows_over_many_tiles_and_splits(programs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every row of a causal layer, over several tiles of rows and of keys, in one part of the keys and in many."""
    monkeypatch.setattr(relevance_triton, "PROGRAMS", programs)
    generator = torch.Generator().manual_seed(1)
    query, key = torch.randn(1, 2, 40, 8, generator=generator), torch.randn(1, 1, 44, 8, generator=generator)
    rows, valid = torch.arange(40)[None], torch.ones(1, 44, dtype=torch.bool)
    expected = relevance.attention_received(query, key, rows, valid, 0.5, per_viewer=True)
    got = relevance_triton.attention_received(query, key, rows, valid, 0.5, per_viewer=True)
    torch.testing.assert_close(got, expected)
    assert torch.equal(got, relevance_triton.attention_received(query, key, rows, valid, 0.5, per_viewer=True))


@pytest.mark.parametrize("rows", [[[-1]], [[]]])
def test_without_rows_nothing_is_received(rows: list[list[int]]) -> None:
    query = torch.randn(1, 2, 3, 4)
    rows_ = torch.tensor(rows, dtype=torch.int64)
    valid = torch.ones(1, 3, dtype=torch.bool)
    assert relevance_triton.attention_received(query, query, rows_, valid, 1.0).tolist() == [[0.0, 0.0, 0.0]]


def test_cuda_takes_the_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    class Elsewhere:
        device = torch.device("cuda")
        dtype = torch.bfloat16

    monkeypatch.setattr(relevance_triton, "attention_received", lambda *args, **options: (args, options))
    (query, *_), options = relevance.attention_received(Elsewhere(), None, None, None, 1.0, per_viewer=True)  # type: ignore[arg-type]
    assert isinstance(query, Elsewhere)
    assert options == {"mask": None, "per_viewer": True, "softcap": None}
    # The kernels sum in float32, which a float64 model must not notice.
    monkeypatch.setattr(relevance, "attention_received_in_torch", lambda *args, **options: "in torch")
    monkeypatch.setattr(Elsewhere, "dtype", torch.float64)
    assert relevance.attention_received(Elsewhere(), None, None, None, 1.0) == "in torch"  # type: ignore[arg-type]
