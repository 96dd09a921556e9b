"""Gram matrices of segments, a bucket of segments of similar length at a time.

One raw Gram matrix ``X Xᵀ`` per segment is all that the kernel needs: its diagonal holds the squared norms,
and cosine and relevance are diagonal scalings, ``L = diag(r / ‖X‖) X Xᵀ diag(r / ‖X‖)``. There is no
normalised copy of the features and no matrix over the whole sample.

The operations and shapes used for a sample depend on that sample alone (never on the batch, the memory layout
or the alignment of the features), so the same sample gives bitwise the same result alone and inside any
batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from framefusion.errors import FrameFusionError
from framefusion.selection.numerics import (
    accumulation_dtype,
    normalise_relevance,
    safe_square_range,
    scale_by_peak,
)
from framefusion.selection.plan import Segment

BUCKET_BYTES_CPU = 16 << 20
BUCKET_BYTES_ACCELERATOR = 256 << 20
"""Gram matrices of at most this many bytes are held at once; a single longer segment may exceed it."""

STACKED_FEATURE_BYTES = 128 << 20
"""Bound on the copy of features that are not contiguous or not aligned."""

LENGTH_SPREAD = 1.25
"""The longest segment of a bucket is at most this much longer than the shortest, which bounds the padding."""

ALIGNMENT = 64


class NonFiniteFeaturesError(FrameFusionError, ValueError):
    """A segment holds NaN or Inf; raised by backends, translated at the public boundary."""


@dataclass(frozen=True)
class Bucket:
    """Segments that are processed together, padded to one width.

    Attributes:
        places: position of each segment in the caller's list.
        segments: S non-empty segments.
        width: length of the longest.
    """

    places: tuple[int, ...]
    segments: tuple[Segment, ...]
    width: int


@dataclass(frozen=True)
class SegmentKernels:
    """What greedy MAP needs of one bucket; S segments, padded to width w; accumulation dtype unless said
    otherwise.

    Attributes:
        gram: (S, w, w) raw products of features; padding undefined.
        scale: (S, w) ``r / ‖X‖``, 0 for zero vectors and padding: ``L[i, j] = gram[i, j] · scale[i] ·
            scale[j]``.
        diagonal: (S, w) exact ``L[i, i] = r[i]²``, 0 for zero vectors and padding.
        fill_relevance: (S, w) float64 relevance as given, for the order of the fill.
        rows: (S, w) int64 positions in the sample; 0 in the padding.
        lengths: (S,) int64 on the CPU.
        counts: (S,) int64 on the CPU, tokens to keep.
    """

    gram: Tensor
    scale: Tensor
    diagonal: Tensor
    fill_relevance: Tensor
    rows: Tensor
    lengths: Tensor
    counts: Tensor


def make_buckets(segments: Sequence[tuple[int, Segment]], feature_dim: int, itemsize: int, limit: int) -> list[Bucket]:
    """Group segments that have something to select by similar length, within the memory limits.

    Args:
        segments: (place, segment) of one sample; segments with count 0 are left out.
        feature_dim: D.
        itemsize: bytes per element of the accumulation dtype.
        limit: bytes of Gram matrices per bucket.
    """
    wanted = sorted((pair for pair in segments if pair[1].count > 0), key=lambda pair: len(pair[1]))
    groups: list[list[tuple[int, Segment]]] = []
    for place, segment in wanted:
        n = len(segment)
        group = groups[-1] if groups else []
        fits = (
            bool(group)
            and n <= LENGTH_SPREAD * len(group[0][1])
            and (len(group) + 1) * n * n * itemsize <= limit
            and (len(group) + 1) * n * feature_dim * itemsize <= STACKED_FEATURE_BYTES
        )
        if fits:
            group.append((place, segment))
        else:
            groups.append([(place, segment)])
    return [Bucket(tuple(place for place, _ in g), tuple(segment for _, segment in g), len(g[-1][1])) for g in groups]


def segment_kernels(features: Tensor, relevance: Tensor | None, bucket: Bucket, check_finite: bool) -> SegmentKernels:
    """Gram matrices and diagonal scalings of one bucket.

    Args:
        features: (N, D), any float dtype.
        relevance: (N,) float64 on the features' device, or None for uniform relevance.
        bucket: segments of this sample.
        check_finite: look at the Gram diagonal on the host: raise for NaN and Inf, and rescale rows whose
            squares leave the range of the accumulation dtype.

    Raises:
        NonFiniteFeaturesError: NaN or Inf in a row of the bucket (only with ``check_finite``).
    """
    lengths = torch.tensor([len(s) for s in bucket.segments], device="cpu")
    counts = torch.tensor([s.count for s in bucket.segments], device="cpu")
    padded_rows = torch.zeros(len(bucket.segments), bucket.width, dtype=torch.int64, device="cpu")
    for target, segment in zip(padded_rows, bucket.segments, strict=True):
        target[: len(segment)] = segment.rows
    rows = padded_rows.to(features.device)
    valid = (torch.arange(bucket.width, device="cpu") < lengths[:, None]).to(features.device)

    gram = raw_gram(features, bucket, rows)
    norms_squared = gram.diagonal(dim1=-2, dim2=-1)
    if check_finite:
        low, high = safe_square_range(gram.dtype)
        in_range = (norms_squared > low) & (norms_squared < high)
        if not bool((in_range | ~valid).all()):
            _rescale_out_of_range(features, bucket, gram, in_range | ~valid)

    weights = valid.to(torch.float64) if relevance is None else relevance[rows] * valid
    r = normalise_relevance(weights, gram.dtype)
    usable = valid & (norms_squared > 0) & (norms_squared < torch.inf)
    inverse_norm = torch.where(usable, norms_squared.rsqrt(), 0.0)
    diagonal = torch.where(usable, r * r, 0.0)
    return SegmentKernels(gram, r * inverse_norm, diagonal, weights, rows, lengths, counts)


def raw_gram(features: Tensor, bucket: Bucket, rows: Tensor) -> Tensor:
    """``X Xᵀ`` of every segment, (S, w, w) in the accumulation dtype."""
    dtype = accumulation_dtype(features.dtype)
    size = len(bucket.segments)
    start = bucket.segments[0].start
    neighbours = start is not None and all(
        len(s) == bucket.width and s.start == start + i * bucket.width for i, s in enumerate(bucket.segments)
    )
    if neighbours and features.dtype == dtype:
        stacked = aligned(features[start : (start or 0) + size * bucket.width])
        stacked = stacked.view(size, bucket.width, -1)
        return torch.bmm(stacked, stacked.mT)
    gram = features.new_zeros(size, bucket.width, bucket.width, dtype=dtype)
    for s, segment in enumerate(bucket.segments):
        n = len(segment)
        x = aligned(segment_rows(features, segment, rows[s, :n]).to(dtype))
        torch.mm(x, x.T, out=gram[s, :n, :n])
    return gram


def segment_rows(features: Tensor, segment: Segment, rows: Tensor) -> Tensor:
    """The segment's features: a view if its rows are consecutive, else gathered by ``rows`` (same device)."""
    if segment.start is not None:
        return features[segment.start : segment.start + len(segment)]
    return features.index_select(0, rows)


def aligned(x: Tensor) -> Tensor:
    """``x`` if contiguous and aligned, else a copy that is: otherwise products may be rounded differently."""
    if x.is_contiguous() and x.data_ptr() % ALIGNMENT == 0:
        return x
    return x.clone(memory_format=torch.contiguous_format)


def _rescale_out_of_range(features: Tensor, bucket: Bucket, gram: Tensor, in_range: Tensor) -> None:
    """Recompute the Gram matrix of segments with under- or overflowing squares from exactly rescaled rows.

    Scaling a row by a power of two changes neither its direction nor, therefore, any cosine.
    """
    for s in (~in_range).any(dim=1).nonzero().flatten().tolist():
        segment = bucket.segments[s]
        n = len(segment)
        x = segment_rows(features, segment, segment.rows.to(features.device)).to(gram.dtype)
        peak = x.abs().amax(dim=1, keepdim=True)
        if not bool(torch.isfinite(peak).all()):
            raise NonFiniteFeaturesError
        if bool((peak[~in_range[s, :n]] > 0).any()):
            x = scale_by_peak(x, peak)
            torch.mm(x, x.T, out=gram[s, :n, :n])
