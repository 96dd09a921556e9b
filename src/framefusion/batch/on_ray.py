"""The processes of a batch as Ray actors, on this machine or a cluster.

Actors rather than a Ray Data pipeline: that one bounds what waits between its stages in bytes, which for rows of text
is no bound, hands over blocks of rows rather than rows, and restarts an actor for ever over a row that kills it.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from framefusion.batch.answering import Answerer, Make, Result, result_of
from framefusion.batch.rows import BatchError, Row
from framefusion.checks import is_whole
from framefusion.supervision import Answered, Confirm, Died, News, Ready, Refused, WorkerError, results

logger = logging.getLogger(__name__)

_PATIENCE = 60.0
_STORE_BYTES = 100 * 2**20


@dataclass(frozen=True)
class RayEngine:
    """Ray actors with one model each.

    Attributes:
        actors: how many.
        cpus: CPUs that Ray reserves for each, and the threads it gets.
        gpus: GPUs that Ray reserves for each; a share such as 0.5 lets two have one. An actor without sees none.
        address: of a cluster to which this machine belongs, ``"auto"`` or such as ``"head:6379"``; default a cluster on
            this machine alone, which ends with the batch. On every machine of a cluster framefusion is installed, and
            the paths of the videos and of the model are valid. A process that is connected to Ray already stays so,
            whatever the address.

    Raises:
        BatchError: a number is out of range.
    """

    actors: int = 1
    cpus: float = 1.0
    gpus: float = 0.0
    address: str | None = None

    def __post_init__(self) -> None:
        if not is_whole(self.actors) or self.actors < 1:
            raise BatchError(f"actors must be a whole number, at least 1, got {self.actors!r}")
        for name in ("cpus", "gpus"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise BatchError(f"{name} must be a number, 0 or more, got {value}")

    def answers(
        self, make: Make, rows: Iterable[Row], count: int, confirm: Confirm, ordered: bool
    ) -> Iterator[tuple[Row, Result]]:
        """See :class:`framefusion.batch.run.Engine`."""
        with _Actors(self, make) as actors:
            try:
                yield from results(actors, min(self.actors, count), rows, _lost, confirm=confirm, ordered=ordered)
            except WorkerError as error:
                raise BatchError(str(error)) from error
            except actors.ray.exceptions.RayError as error:
                raise BatchError(f"Ray failed: {_last_line(error)}") from error


class _Actors:
    """A :class:`framefusion.supervision.Pool`."""

    def __init__(self, engine: RayEngine, make: Make) -> None:
        try:
            import ray
        except ImportError as error:
            raise BatchError("the engine ray needs Ray; install it with: pip install 'framefusion[ray]'") from error
        self.ray, self.engine, self.make = ray, engine, make
        self.directory = Path.cwd()
        self.handles: dict[int, Any] = {}
        self.pending: dict[Any, int] = {}
        self.started = 0
        self.owns_cluster = False

    def __enter__(self) -> _Actors:
        if not self.ray.is_initialized():
            try:
                self.ray.init(log_to_driver=False, logging_level=logging.ERROR, **self._cluster())
            except Exception as error:
                where = self.engine.address or "on this machine"
                raise BatchError(f"Ray cannot be reached or started ({where}): {_last_line(error)}") from error
            self.owns_cluster = True
        try:
            self._check_resources()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for worker in list(self.handles):
            self.stop(worker)
        self._end()

    def start(self) -> int:
        self.started += 1
        # Ray's own restarts would repeat a row that kills its process without an end.
        remote: Any = self.ray.remote(
            num_cpus=self.engine.cpus, num_gpus=self.engine.gpus, max_restarts=0, max_task_retries=0
        )(_Actor)
        handle = remote.remote(self.make, self.directory, bool(self.engine.gpus))
        self.handles[self.started] = handle
        self.pending[handle.load.remote()] = self.started
        return self.started

    def submit(self, worker: int, job: Row) -> None:
        self.pending[self.handles[worker].answer.remote(job)] = worker

    def wait(self) -> tuple[int, News]:
        ray = self.ray
        done: list[Any] = []
        while not done:
            done, _ = ray.wait(list(self.pending), num_returns=1, timeout=_PATIENCE)
            if not done:
                logger.info("%d Ray actors are loading or answering", len(self.pending))
        worker = self.pending.pop(done[0])
        try:
            return worker, ray.get(done[0])
        except ray.exceptions.RayTaskError:
            raise
        except ray.exceptions.RayError as error:
            return worker, Died(_last_line(error))

    def stop(self, worker: int) -> None:
        handle = self.handles.pop(worker)
        self.pending = {ticket: owner for ticket, owner in self.pending.items() if owner != worker}
        self.ray.kill(handle)

    def _cluster(self) -> dict[str, Any]:
        if self.engine.address is not None:
            return {"address": self.engine.address}
        # A cluster of our own sends no usage statistics; Ray knows no other switch. "local" never joins another one.
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        return {"address": "local", "include_dashboard": False, "object_store_memory": _STORE_BYTES}

    def _check_resources(self) -> None:
        """Actors that can never start would be waited for without an end."""
        there = self.ray.cluster_resources()
        for name, each in (("CPU", self.engine.cpus), ("GPU", self.engine.gpus)):
            wanted, found = each * self.engine.actors, there.get(name, 0.0)
            if wanted <= found:
                continue
            text = f"{self.engine.actors} actors with {each:g} {name}s each need {wanted:g}, there are {found:g}"
            if self.engine.address is None:
                raise BatchError(f"{text}; take fewer actors, or fewer {name}s for each")
            logger.warning("%s in the cluster now; actors wait until there are more", text)
        if there.get("GPU") and not self.engine.gpus:
            logger.warning("there are %g GPUs, and the actors reserve none, so they use CPUs", there["GPU"])

    def _end(self) -> None:
        if self.owns_cluster:
            self.ray.shutdown()


class _Actor:
    """What runs in an actor."""

    def __init__(self, make: Make, directory: Path, gpus: bool) -> None:
        self.make = make
        self.answerer: Answerer | None = None
        if not gpus:
            # Ray hides no GPU from those that reserve none, and all of them would crowd onto the first one.
            os.environ["CUDA_VISIBLE_DEVICES"] = ""
        if directory.is_dir():
            # A model may be named by a path that is relative to where the batch was started.
            os.chdir(directory)

    def load(self) -> News:
        try:
            self.answerer = self.make()
        except BatchError as error:
            return Refused(str(error))
        return Ready(self.answerer.description)

    def answer(self, row: Row) -> News:
        assert self.answerer is not None
        try:
            return Answered(result_of(self.answerer, row))
        except BatchError as error:
            return Refused(str(error))


def _lost(reason: str) -> Result:
    return {"error": reason}


def _last_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1].rstrip(".") if lines else type(error).__name__
