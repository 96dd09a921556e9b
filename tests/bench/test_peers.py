"""What others publish selects the same sets, where its objective is ours."""

from __future__ import annotations

import pytest
import torch

from benchmarks import openvino_dpp, peers
from benchmarks.contenders import PEERS, split_installed
from framefusion.bench.contenders import CONTENDERS, contenders_on
from framefusion.bench.workloads import Config, make_case


def skip_unless_installed(name: str) -> None:
    reason = CONTENDERS[name].missing()
    if reason is not None:
        pytest.skip(f"{name}: {reason}")


@pytest.mark.parametrize("name", PEERS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_peers_select_the_same_sets(name: str, dtype: str) -> None:
    skip_unless_installed(name)
    case = make_case(Config(3, 50, 20, 96, batch=2, outside=5, dtype=dtype))
    expected = CONTENDERS["torch"].run(case)
    selected = CONTENDERS[name].run(case)
    for mine, theirs in zip(expected, selected, strict=True):
        assert theirs.dtype == torch.int64
        for own, other in zip(mine.view(3, 20), theirs.view(3, 20), strict=True):
            assert sorted(other.tolist()) == sorted(own.tolist())
            if name != "openvino":  # which sorts
                assert torch.equal(own, other)


@pytest.mark.parametrize("name", PEERS)
def test_peers_keep_all_of_a_segment_that_is_short(name: str) -> None:
    skip_unless_installed(name)
    case = make_case(Config(2, 6, 9, 64))
    (selected,) = CONTENDERS[name].run(case)
    assert sorted(selected.tolist()) == list(range(12))


def test_kernels_are_those_of_the_formula() -> None:
    case = make_case(Config(2, 5, 2, 8, outside=3))
    got = peers.kernels(case)
    relevance = peers.relevance_of(case)[0]
    for segment in range(2):
        rows = slice(segment * 5, segment * 5 + 5)
        x, r = case.features[0, rows].double(), relevance[rows].double()
        x = x / x.norm(dim=1, keepdim=True)
        torch.testing.assert_close(got[segment].double(), r[:, None] * (x @ x.T) * r[None], rtol=1e-5, atol=1e-6)


def test_a_missing_package_is_named_with_the_extra() -> None:
    assert peers.needs("torch")() is None
    assert peers.needs("torch", "no_such_module_a", "no_such_module_b")() == (
        "needs no_such_module_a, no_such_module_b: pip install 'framefusion[bench]'"
    )


def test_another_openvino_is_not_called(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openvino_dpp.sys, "platform", "linux")
    monkeypatch.setattr(openvino_dpp.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(openvino_dpp, "version", lambda package: "2031.1")
    expected = f"called only in openvino-genai {openvino_dpp.VERSION}, here is 2031.1"
    assert openvino_dpp.missing() == expected
    assert split_installed(["gram", "openvino"]) == (["gram"], {"openvino": expected})
    openvino_dpp._Library.load.cache_clear()
    with pytest.raises(ImportError, match="here is 2031"):
        openvino_dpp.greedy_dpp(torch.zeros(1, 2, 2), 1)
    monkeypatch.setattr(openvino_dpp.platform, "machine", lambda: "aarch64")
    assert openvino_dpp.missing() == "called only in its x86-64 Linux wheel"


@pytest.mark.parametrize(
    ("kernels", "keep", "message"),
    [
        (torch.zeros(1, 2, 2, dtype=torch.float64), 1, "contiguous"),
        (torch.zeros(2, 2), 1, "contiguous"),
        (torch.zeros(1, 2, 3), 1, "square"),
        (torch.zeros(1, 2, 2), 3, "got 3 of"),
        (torch.zeros(1, 2, 2), 0, "got 0 of"),
    ],
)
def test_openvino_is_given_nothing_that_it_would_end_the_process_over(
    kernels: torch.Tensor, keep: int, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        openvino_dpp.greedy_dpp(kernels, keep)


def test_what_runs_on_cuda() -> None:
    assert contenders_on("cuda", ("torch", "numba", "gram", *PEERS)) == ["torch", "gram", "linear-operator"]
    assert contenders_on("cpu", PEERS) == list(PEERS)
