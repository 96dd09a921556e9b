"""Work side by side: order, errors, and nothing left behind in torch's settings."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from framefusion.selection import numba_backend, select_tokens, threads
from framefusion.selection.threads import each, here
from tests.selection.test_determinism import in_fork, near_ties


@pytest.fixture(autouse=True)
def three_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def in_new_thread() -> int:
    found: list[int] = []
    thread = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    return found[0]


def test_results_are_in_the_order_of_the_items_and_of_one_thread_each() -> None:
    assert each(lambda i: (i, torch.get_num_threads()), range(50)) == [(i, 1) for i in range(50)]
    assert each(lambda i: i, []) == []


def test_as_many_work_at_once_as_torch_has_threads() -> None:
    together = threading.Barrier(3)
    each(lambda _: together.wait(timeout=60), range(3))
    torch.set_num_threads(1)
    assert each(lambda _: threading.current_thread(), range(2)) == [threading.current_thread()] * 2


def test_items_of_items_stay_on_their_thread() -> None:
    for own, inner in each(
        lambda _: (threading.get_ident(), each(lambda _: threading.get_ident(), range(4))), range(9)
    ):
        assert set(inner) == {own}


def test_here_items_stay_on_this_thread_with_all_of_torchs() -> None:
    with here():
        with here():
            pass
        assert (
            each(lambda _: (threading.get_ident(), torch.get_num_threads()), range(4))
            == [(threading.get_ident(), 3)] * 4
        )
    assert threading.get_ident() not in each(lambda _: threading.get_ident(), range(4))
    with pytest.raises(ZeroDivisionError), here():
        each(lambda i: 1 // i, range(2))
    assert threading.get_ident() not in each(lambda _: threading.get_ident(), range(4))


def test_items_stay_here_where_torch_keeps_its_number_of_threads(monkeypatch) -> None:
    """As in vLLM's CPU workers."""
    threads._pool.cache_clear()
    monkeypatch.setattr(torch, "set_num_threads", lambda number: None)
    assert each(lambda _: threading.get_ident(), range(4)) == [threading.get_ident()] * 4
    threads._pool.cache_clear()


def test_items_of_items_stay_there_also_where_their_thread_has_more_of_torchs(monkeypatch) -> None:
    """One that waited for others of its pool would wait for ever."""
    each(lambda i: i, range(3))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    for own, inner in each(
        lambda _: (threading.get_ident(), each(lambda _: threading.get_ident(), range(4))), range(9)
    ):
        assert set(inner) == {own}


def test_torch_keeps_its_threads_here_and_in_threads_that_come_later() -> None:
    threads._pool.cache_clear()
    each(lambda i: i, range(3))
    assert torch.get_num_threads() == in_new_thread() == 3


def test_an_error_reaches_the_caller_and_the_next_call_works() -> None:
    with pytest.raises(ZeroDivisionError):
        each(lambda i: 1 // i, range(20))
    assert each(lambda i: i, range(20)) == list(range(20))


@pytest.mark.parametrize("mode", [True, False])
def test_tensors_are_those_of_the_callers_mode(mode: bool) -> None:
    with torch.inference_mode(mode):
        whole = torch.zeros(4)
        made = each(lambda i: whole[i : i + 1].add_(1), range(4))
    assert whole.tolist() == [1] * 4
    assert all(part.is_inference() == mode for part in [whole, *made])


def shapes() -> list[tuple[str, Tensor]]:
    long = numba_backend.SIDE_BY_SIDE + 77
    return [
        ("many segments", torch.arange(640) // 64),
        ("fewer than threads", torch.arange(640) // 320),
        ("one longer than are shared", torch.cat([torch.zeros(long), torch.arange(300) // 50 + 1]).long()),
    ]


@pytest.mark.parametrize(("what", "ids"), shapes())
@pytest.mark.parametrize("gamma", [None, 1.0])
def test_any_number_of_threads_selects_the_same_with_the_same_gains(
    what: str, ids: Tensor, gamma: float | None, monkeypatch
) -> None:
    monkeypatch.setattr(numba_backend, "LITTLE", 0)
    features = near_ties(1, len(ids), 333, torch.float32, 4)[0]

    def selected(count: int) -> tuple[Tensor, Tensor]:
        torch.set_num_threads(count)
        return select_tokens(features, None, ids, len(ids) // 2, backend="numba", gamma=gamma, return_gains=True)

    kept, gains = selected(1)
    for count in (2, 3, 8):
        again, same = selected(count)
        assert torch.equal(again, kept), what
        assert torch.equal(same, gains), what


@pytest.mark.parametrize("gamma", [None, 1.0])
def test_a_little_work_is_done_here_and_selects_what_a_pool_does(gamma: float | None, monkeypatch) -> None:
    """A batch of two: each sample goes the way that its own work asks for, so that a row is its single run."""
    features, ids = near_ties(2, 300, 50, torch.float32, 2), torch.arange(300) // 50
    where: list[str] = []
    original = numba_backend._select_segment
    monkeypatch.setattr(
        numba_backend,
        "_select_segment",
        lambda *args: (where.append(threading.current_thread().name), original(*args))[1],
    )

    def selected() -> list[Tensor]:
        return list(select_tokens(features, None, ids, [25] * 6, backend="numba", gamma=gamma))

    small = selected()
    assert set(where) == {threading.current_thread().name}
    where.clear()
    monkeypatch.setattr(numba_backend, "LITTLE", 6 * 50**2 * 50 - 1)
    large = selected()
    assert len(where) == 12
    assert threading.current_thread().name not in where
    assert all(map(torch.equal, small, large))


def test_a_forked_process_has_threads_of_its_own(monkeypatch) -> None:
    monkeypatch.setattr(numba_backend, "LITTLE", 0)
    features, ids = near_ties(1, 200, 33, torch.float32, 1)[0], torch.arange(200) // 50
    expected = select_tokens(features, None, ids, 40, backend="numba").tolist()
    assert in_fork(lambda: select_tokens(features, None, ids, 40, backend="numba")) == expected
