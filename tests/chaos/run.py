"""A run: faults by a schedule while producers submit, then waiting for the end and checking."""

from __future__ import annotations

import json
import os
import re
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import redis

from opsqueue.exceptions import ConnectionTroubleError, OpsqueueError
from opsqueue.model.names import base_key
from opsqueue.model.submission import SubmissionId
from opsqueue.producer import ProducerClient
from opsqueue.producer.redis_api import RedisBackend
from opsqueue.queue.queue import Queue
from opsqueue.store import open_store
from tests.chaos import checker, schedule
from tests.chaos.injector import Injector
from tests.chaos.injectors import INJECTORS
from tests.chaos.producers import Producer, producers_of, shown
from tests.chaos.stage import CREDENTIALS, Stage, staged
from tests.chaos.values import (
    QUEUES,
    Cast,
    Evidence,
    Execution,
    Expected,
    Fault,
    Key,
    Outcome,
    Plan,
    QueueEnd,
)

SETTLE_WITHIN_S: Final = 120.0
"""Time after the last fault. A reservation whose answer was lost is released after 35 s, and boto3,
which began to retry while the store failed, takes some 20 s until it gives up."""
_TICK_S: Final = 0.02
_STALL_S: Final = 1.0
_SLOW_S: Final = 0.3


@dataclass(frozen=True)
class Result:
    """The outcome of a run."""

    seed: int
    cast: Cast
    evidence: Evidence
    wrong: tuple[str, ...]
    settled_s: float
    """Seconds from the last fault's end until nothing was left to do."""
    total_s: float
    folder: Path
    ends_of_logs: str = ""

    @property
    def text(self) -> str:
        """The report."""
        evidence = self.evidence
        kinds = ", ".join(f"{n} {k}" for k, n in sorted(checker.kinds_of(evidence.faults).items()))
        ran, extra = len(evidence.executions), checker.extra_executions(evidence.executions)
        operations = sum(len(one.operations) for one in evidence.expected)
        how = "WRONG" if self.wrong else "CLEAN"
        cast = self.cast
        lines = [
            (
                f"seed {self.seed}: {how} in {self.total_s:.0f} s, the last "
                f"{self.settled_s:.1f} s of them after the last fault"
            ),
            (
                f"  appendfsync {cast.appendfsync}, pools {', '.join(cast.pools)}, consumer over "
                f"{cast.consumer_via}, API processes {cast.api_processes}"
            ),
            (
                f"  {len(evidence.expected)} submissions, {operations:,} operations, {ran:,} "
                f"executions, {extra} of them extra"
            ),
            f"  {len(evidence.faults)} faults: {kinds}",
        ]
        if self.wrong:
            lines += [f"  - {text}" for text in self.wrong[:40]]
            lines += [f"  … and {len(self.wrong) - 40} more"] if len(self.wrong) > 40 else []
            lines += [f"  logs and faults.json: {self.folder}", self.ends_of_logs]
        return "\n".join(lines)


def run_seed(
    seed: int,
    *,
    seconds: float,
    without: frozenset[str] = frozenset(),
    folder: Path | None = None,
    say: Callable[[str], None] = print,
) -> Result:
    """Do a run; call it on the main thread, so that the server dies with it."""
    os.environ.update(CREDENTIALS)
    folder = folder or Path(tempfile.mkdtemp(prefix=f"opsqueue-chaos-{seed}-"))
    began = time.monotonic()
    cast = schedule.cast_of(seed)
    plans = schedule.schedule(seed, seconds=seconds, without=without)
    say(f"seed {seed}: {len(plans)} faults in {schedule.length_s(plans):.0f} s; logs in {folder}")
    (folder / "plans.json").write_text(json.dumps([asdict(plan) for plan in plans], indent=1))
    with staged(folder, cast, seed=seed) as stage:
        producers = producers_of(stage.api_url, stage.store_url, seed=seed)
        try:
            for producer in producers:
                producer.start()
            drama = _Drama(stage, plans)
            try:
                drama.play()
                evidence, settled_s = _settle(stage, producers, drama)
            finally:
                drama.close()
        finally:
            for producer in producers:
                producer.close()
        (folder / "faults.json").write_text(
            json.dumps([asdict(fault) for fault in evidence.faults], default=list, indent=1)
        )
        wrong = tuple(checker.check(evidence))
        return Result(
            seed=seed,
            cast=cast,
            evidence=evidence,
            wrong=wrong,
            settled_s=settled_s,
            total_s=time.monotonic() - began,
            folder=folder,
            ends_of_logs="\n".join(
                f"--- {program.name}\n{program.end_of_log()}"
                for program in (*stage.programs.values(), stage.store)
            )
            if wrong
            else "",
        )


class _Drama:
    """Executes the schedule on the main thread, and keeps the programs running."""

    def __init__(self, stage: Stage, plans: Sequence[Plan]) -> None:
        self._stage = stage
        self._coming = list(plans)
        self._on: list[tuple[float, Injector]] = []
        self._began = time.monotonic()
        self._witness = _Witness(stage.store_port)
        self._faults: list[Fault] = []
        self.surprises: list[str] = []

    def play(self) -> None:
        """Execute all planned faults."""
        self._began = time.monotonic()
        while self._coming or self._on:
            now_s = time.monotonic() - self._began
            # Ends first: the next fault of the same target counts on it.
            for ends_at, injector in list(self._on):
                if ends_at <= now_s:
                    self._on.remove((ends_at, injector))
                    self._faults.append(injector.end(self._stage))
            while self._coming and self._coming[0].at_s <= now_s:
                plan = self._coming.pop(0)
                injector = INJECTORS[plan.kind](plan)
                injector.begin(self._stage)
                self._on.append((plan.at_s + plan.seconds, injector))
            self.tick()
        self._stage.heal()

    def close(self) -> None:
        """Stop watching, since other tests follow in this process."""
        self._witness.close()

    def tick(self) -> None:
        """Restart the programs that ended."""
        self.surprises += self._stage.supervise()
        time.sleep(_TICK_S)

    def faults(self) -> tuple[Fault, ...]:
        """Return all faults, ordered by their beginning."""
        every = [*self._faults, *self._witness.faults]
        return tuple(sorted(every, key=lambda fault: fault.began))


class _Witness:
    """Notices when this process got no CPU time: then the programs got none either.

    It also notices when the object store itself, without its proxy, was slow for a small request:
    then outputs were stored and reports sent as late.
    """

    def __init__(self, store_port: int) -> None:
        self._store = f"http://127.0.0.1:{store_port}/"
        self.faults: list[Fault] = []
        self._is_over = threading.Event()
        self._threads = [
            threading.Thread(target=look, name="witness", daemon=True)
            for look in (self._watch_clock, self._watch_store)
        ]
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """End both threads."""
        self._is_over.set()
        for thread in self._threads:
            thread.join()

    def _watch_clock(self) -> None:
        before = time.monotonic()
        while not self._is_over.wait(0.05):
            now = time.monotonic()
            if now - before > _STALL_S:
                self._note("machine-stall", before, now)
            before = now

    def _watch_store(self) -> None:
        slow_since: float | None = None
        while not self._is_over.wait(0.1):
            before = time.monotonic()
            with suppress(OSError):
                urllib.request.urlopen(self._store, timeout=10).close()  # noqa: S310 our own
            now = time.monotonic()
            if now - before > _SLOW_S:
                slow_since = slow_since or before
            elif slow_since is not None:
                self._note("store-slow", slow_since, before)
                slow_since = None

    def _note(self, kind: str, began: float, ended: float) -> None:
        self.faults.append(Fault(kind=kind, target="all", began=began, ended=ended))


def _settle(stage: Stage, producers: Sequence[Producer], drama: _Drama) -> tuple[Evidence, float]:
    began = time.monotonic()
    deadline = began + SETTLE_WITHIN_S

    def stop_all() -> None:
        for one in producers:
            one.stop(deadline - time.monotonic())

    stopping = threading.Thread(target=stop_all)
    stopping.start()
    while stopping.is_alive():
        drama.tick()
    while time.monotonic() < deadline and not _is_quiet(stage):
        for _ in range(10):
            drama.tick()
    settled_s = time.monotonic() - began
    expected = [one for producer in producers for one in producer.accepted]
    return (
        Evidence(
            expected=tuple(expected),
            outcomes=_outcomes(stage, expected),
            executions=tuple(read_executions(stage.log_folder)),
            faults=(
                *drama.faults(),
                *(one for producer in producers for one in producer.cancellations),
            ),
            queues={queue: _end_of(stage, queue) for queue in QUEUES},
            surprises=(
                *drama.surprises,
                *(text for producer in producers for text in producer.surprises),
                *_defects(stage),
                *(text for one in stage.programs.values() if (text := one.left_behind())),
            ),
        ),
        settled_s,
    )


def _is_quiet(stage: Stage) -> bool:
    try:
        ends = [_end_of(stage, queue) for queue in QUEUES]
    except (OpsqueueError, redis.RedisError):
        return False
    return not any(
        end.chunks_in_hand
        or end.chunks_delayed
        or end.submissions_ready
        or end.submissions_in_progress
        for end in ends
    )


def _end_of(stage: Stage, name: str) -> QueueEnd:
    queue = Queue(stage.client, name)
    counts = queue.count_queue()
    counted: dict[str, int] = {}
    for part in queue.parts():
        for key in stage.client.scan_iter(f"{base_key(name, part.partition)}inhand*"):
            by_value: Any = stage.client.hgetall(key)
            for value, number in by_value.items():
                if int(number):
                    counted[f"{key.decode()} {value.decode()}"] = int(number)
    submissions = counts.submissions
    return QueueEnd(
        stats=counts.stats,
        submissions=frozenset(
            int(one.id) for one in queue.list_submissions(limit=1_000).submissions
        ),
        chunks_in_hand=counts.chunks_in_hand,
        chunks_delayed=counts.chunks_delayed,
        submissions_ready=counts.submissions_ready,
        submissions_in_progress=sum(
            n for state, n in submissions.items() if state == "in_progress"
        ),
        counted_in_hand=counted,
    )


def _outcomes(stage: Stage, expected: Sequence[Expected]) -> dict[Key, Outcome]:
    """Read all results directly from Redis and the store; no fault is active any more."""
    outcomes: dict[Key, Outcome] = {}
    store = open_store(stage.store_url)
    for one in expected:
        client = ProducerClient.over(RedisBackend(stage.client), store, queue=one.queue)
        try:
            submission = client.get_submission(SubmissionId(one.id))
            results = None
            if submission.state == "completed":
                results = shown(
                    client.try_stream_completed_submission(submission.id, errors="yield")
                )
        except ConnectionTroubleError:
            raise
        except OpsqueueError:
            continue
        finally:
            client.close()
        outcomes[one.key] = Outcome(
            state=str(submission.state),
            chunks_total=submission.chunks_total,
            chunks_done=submission.chunks_done,
            chunks_in_hand=submission.chunks_in_hand,
            operations_done=submission.operations_done,
            operations_failed=submission.operations_failed,
            results=results,
        )
    store.close()
    return outcomes


def read_executions(folder: Path) -> list[Execution]:
    """Read the logs of all processes."""
    executions: list[Execution] = []
    for path in folder.glob("*.jsonl"):
        begun: dict[int, dict[str, Any]] = {}
        for line in path.read_text().splitlines():
            event = json.loads(line)
            begun.setdefault(event.pop("run"), {}).update(event)
        executions += [Execution(**fields) for fields in begun.values()]
    return executions


_DEFECT: Final = re.compile(r"Traceback|a defect in|CRITICAL")


def _defects(stage: Stage) -> list[str]:
    """Find log lines that no fault excuses, the first of each program."""
    found: list[str] = []
    for program in stage.programs.values():
        lines = program.log.read_text(errors="replace").splitlines()
        at = next((at for at, line in enumerate(lines) if _DEFECT.search(line)), None)
        if at is not None:
            text = "\n".join(lines[max(0, at - 2) : at + 25])
            found.append(f"{program.name} says in its log:\n{text}")
    return found
