"""Scale: the cost of idle programs, wake-ups, sweeps and single scripts by what there is.

    python benchmarks/scale.py scripts
    python benchmarks/scale.py scripts --workers 100 --held 1000 --of-one 500   # a small queue

`scripts`: the longest single call of each script, in milliseconds of the server's CPU, in each of
the script's heaviest situations. A server runs one script at a time, so all other clients of all
its queues wait meanwhile. In the queue, 10,000 workers hold 50,000 chunks; one worker holds 9,000
of them. Each situation is made --rounds times, and of each call the best round counts: what
differs between rounds is the machine's other work.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import Any

import redis

from opsqueue.contents.chunks import fresh_prefix
from opsqueue.model.chunk import MAX_BATCH, Token
from opsqueue.model.names import base_key
from opsqueue.model.new_submission import MAX_STRATEGIC_PAIRS, NewSubmission
from opsqueue.model.submission import SubmissionId
from opsqueue.queue import commands
from opsqueue.queue.commands import Command
from opsqueue.queue.connection import connect
from opsqueue.queue.queue import Queue
from opsqueue.queue.script import load_script
from opsqueue.queue.state import READINGS, TRANSITIONS
from opsqueue.strategy import AnyStrategy, Oldest, parse_strategy
from opsqueue.testing.embedded import EmbeddedServer
from report import Report, main_thread_cpu_s

BIG = "worker-big"
SMALL = "worker-1"
SWEEPER = "sweeper"
LONG_MS = 30 * 24 * 3600 * 1000
INFO = b'{"host":"a-host-name","pid":12345,"version":"1.2.3","slots":16,"codecs":["json","cbor"]}'
EACH_ITS_OWN = parse_strategy("PreferDistinct(key-00, Oldest)")
PREFERRED = parse_strategy("MaxSimultaneous(key-01, 100000, PreferDistinct(key-00, Oldest))")


@dataclass
class Situation:
    """A queue with many workers and many reserved chunks.

    Attributes:
        queue: its clock stands, but for `advance`.
        plain: a submission without strategic metadata, from which most chunks are reserved.
        held: tokens of the chunks that the big worker holds.
    """

    queue: Queue
    client: redis.Redis
    clock: list[int]
    workers: int
    of_one: int
    plain: SubmissionId
    held: list[Token] = field(default_factory=list)

    def insert(self, chunks: int = 10**6, *, pairs: int = 0, value: int = 0) -> SubmissionId:
        """Insert a submission with pairs of strategic metadata, all with the same value."""
        new = NewSubmission(
            prefix=fresh_prefix(self.queue.name),
            chunks_total=chunks,
            strategic_metadata={f"key-{n:02}": value for n in range(pairs)},
        )
        return self.queue.insert_submission(new).id

    def reserve(
        self,
        chunks: int,
        *,
        worker: str = SMALL,
        strategy: AnyStrategy | None = None,
        ms: int = LONG_MS,
    ) -> list[Token]:
        """Reserve chunks, in as many calls as needed."""
        tokens: list[Token] = []
        while len(tokens) < chunks:
            limit = min(MAX_BATCH, chunks - len(tokens))
            found = self.queue.reserve_chunks(
                worker, limit=limit, reservation_ms=ms, strategy=strategy or Oldest(),
                heartbeat_timeout_ms=LONG_MS,
            ).chunks  # fmt: skip
            if not found:
                raise SystemExit(f"nothing to reserve, although {limit} more are wanted")
            tokens += [chunk.token for chunk in found]
        return tokens

    def tagged(self, submissions: int) -> list[SubmissionId]:
        """Insert submissions with as many pairs as possible, each with a value of its own."""
        return [self.insert(pairs=MAX_STRATEGIC_PAIRS, value=value) for value in range(submissions)]

    def make_suspects(self, chunks: int) -> None:
        """Reserve chunks for a worker that has begun them, and that is dead at once."""
        tokens = self.reserve(chunks, worker="worker-dead")
        self.queue.heartbeat("worker-dead", tokens=tokens, begun=tokens, timeout_ms=0)
        LEFT.append(self._delete_suspects)

    def _delete_suspects(self) -> None:
        names = ("suspects", "delayed", "hosts", "isolating", "drainer")
        self.client.delete(*(base_key(self.queue.name) + name for name in names))

    def reclaim_dead(self) -> None:
        while (swept := self.queue.reclaim_dead(SWEEPER)) and swept.next_from:
            pass

    def run_all(self, many: Sequence[Command[Any]]) -> None:
        for first in range(0, len(many), 1_000):
            self.queue.pipeline(many[first : first + 1_000])


def build_situation(client: redis.Redis, *, workers: int, held: int, of_one: int) -> Situation:
    clock = [1_800_000_000_000]
    queue = Queue(client, "scale", partition=0, clock=lambda: clock[0])
    plain = queue.insert_submission(
        NewSubmission(prefix=fresh_prefix(queue.name), chunks_total=10**9)
    ).id
    situation = Situation(queue, client, clock, workers, of_one, plain)
    each = (held - of_one) // workers
    names = [f"worker-{number}" for number in range(workers)]
    situation.run_all(
        [
            commands.reserve_chunks(
                name, limit=each, reservation_ms=LONG_MS, strategy=Oldest(),
                heartbeat_timeout_ms=LONG_MS,
            )
            for name in names
        ]
    )  # fmt: skip
    situation.held = situation.reserve(of_one, worker=BIG)
    beats = [
        commands.heartbeat(
            name,
            partition=0,
            tokens=[],
            info=INFO,
            unknown_ms=LONG_MS,
            timeout_ms=LONG_MS,
            begun=[],
        )
        for name in names
    ]
    situation.run_all(beats)
    queue.heartbeat(BIG, tokens=situation.held, begun=situation.held, timeout_ms=LONG_MS)
    return situation


@dataclass(frozen=True)
class Case:
    """One situation of a script: `prepare` makes it, and returns what is measured."""

    script: str
    situation: str
    prepare: Callable[[Situation], Callable[[], object]]


CASES: list[Case] = []


def case(
    script: str, situation: str
) -> Callable[[Callable[[Situation], Callable[[], object]]], None]:
    def add(prepare: Callable[[Situation], Callable[[], object]]) -> None:
        CASES.append(Case(script, situation, prepare))

    return add


@case("heartbeat", "a worker that holds nothing")
def _(s: Situation) -> Callable[[], object]:
    return lambda: s.queue.heartbeat("worker-idle", timeout_ms=LONG_MS, begun=[])


@case("heartbeat", "9,000 chunks, all begun")
def _(s: Situation) -> Callable[[], object]:
    return lambda: s.queue.heartbeat(BIG, tokens=s.held, begun=s.held, timeout_ms=LONG_MS)


@case("heartbeat", "9,000 chunks, none pending")
def _(s: Situation) -> Callable[[], object]:
    return lambda: s.queue.heartbeat("worker-idle", tokens=s.held, begun=[], timeout_ms=LONG_MS)


@case("heartbeat", "9,000 chunks that it does not know")
def _(s: Situation) -> Callable[[], object]:
    s.reserve(s.of_one, worker="worker-new")
    return lambda: s.queue.heartbeat("worker-new", unknown_ms=0, timeout_ms=LONG_MS)


@case("heartbeat", "500 unknown chunks with 64 pairs each")
def _(s: Situation) -> Callable[[], object]:
    cancel_later = s.tagged(500)
    s.reserve(500, worker="worker-new", strategy=EACH_ITS_OWN)

    def act() -> None:
        s.queue.heartbeat("worker-new", unknown_ms=0, timeout_ms=LONG_MS)

    return ending(s, cancel_later, act)


def ending(
    s: Situation, ids: Sequence[SubmissionId], act: Callable[[], object]
) -> Callable[[], object]:
    """Return the act; afterwards the submissions are cancelled, in another call that is ignored."""
    LEFT.append(lambda: [s.queue.cancel_submission(id_) for id_ in ids])
    return act


LEFT: list[Callable[[], object]] = []


@case("note_begun", "9,000 chunks")
def _(s: Situation) -> Callable[[], object]:
    return lambda: s.queue.note_begun(BIG, s.held)


@case("list_workers", "1,000 of 10,000 workers")
def _(s: Situation) -> Callable[[], object]:
    return s.queue.list_workers


@case("get_workers", "the same, and one that holds 9,000 chunks")
def _(s: Situation) -> Callable[[], object]:
    s.queue.heartbeat(BIG, tokens=s.held, begun=s.held, timeout_ms=LONG_MS)
    return s.queue.list_workers


@case("reclaim_dead", "a worker that held 9,000 chunks, all begun")
def _(s: Situation) -> Callable[[], object]:
    s.make_suspects(s.of_one)
    return s.reclaim_dead


@case("reclaim_dead", "100 chunks with 64 pairs each")
def _(s: Situation) -> Callable[[], object]:
    ids = s.tagged(100)
    s.reserve(100, worker="worker-dead", strategy=EACH_ITS_OWN)
    s.queue.heartbeat("worker-dead", timeout_ms=0, unknown_ms=LONG_MS)
    return ending(s, ids, s.reclaim_dead)


def reclaim_expired(s: Situation) -> Callable[[], object]:
    def act() -> None:
        page = "-"
        while (swept := s.queue.reclaim_expired(SWEEPER, page_from=page)) and swept.next_from:
            page = swept.next_from

    return act


@case("reclaim_expired", "none expired")
def _(s: Situation) -> Callable[[], object]:
    return reclaim_expired(s)


@case("reclaim_expired", "1,000 expired, begun")
def _(s: Situation) -> Callable[[], object]:
    tokens = s.reserve(1_000, worker=BIG, ms=1)
    s.queue.note_begun(BIG, [*s.held[:8_000], *tokens])
    s.clock[0] += 2
    return reclaim_expired(s)


@case("reclaim_expired", "500 expired with 64 pairs each")
def _(s: Situation) -> Callable[[], object]:
    ids = s.tagged(500)
    s.reserve(500, strategy=EACH_ITS_OWN, ms=1)
    s.clock[0] += 2
    return ending(s, ids, reclaim_expired(s))


@case("retire_worker", "9,000 chunks, all begun")
def _(s: Situation) -> Callable[[], object]:
    tokens = s.reserve(s.of_one, worker="worker-new")
    s.queue.heartbeat("worker-new", tokens=tokens, begun=tokens, timeout_ms=LONG_MS)
    return lambda: s.queue.retire_worker("worker-new")


@case("retire_worker", "500 chunks with 64 pairs each")
def _(s: Situation) -> Callable[[], object]:
    ids = s.tagged(500)
    s.reserve(500, worker="worker-new", strategy=EACH_ITS_OWN)
    return ending(s, ids, lambda: s.queue.retire_worker("worker-new"))


@case("repair", "all steps of a sweeper")
def _(s: Situation) -> Callable[[], object]:
    def act() -> None:
        step = s.queue.repair(begin=True, limit=250)
        while step is not None and step.next_from is not None:
            step = s.queue.repair(limit=250)

    return act


@case("repair", "all steps, the default limit")
def _(s: Situation) -> Callable[[], object]:
    def act() -> None:
        step = s.queue.repair(begin=True)
        while step is not None and step.next_from is not None:
            step = s.queue.repair()

    return act


@case("forget_submissions", "1,000 submissions with 64 pairs each")
def _(s: Situation) -> Callable[[], object]:
    for id_ in s.tagged(1_000):
        s.queue.cancel_submission(id_)
    s.clock[0] += 24 * 3600 * 1000 + 1

    def act() -> None:
        deleted: Sequence[str] = ()
        while (found := s.queue.forget_submissions(deleted_prefixes=deleted)).prefixes:
            deleted = found.prefixes

    return act


@case("reserve_chunks", "200 of one submission")
def _(s: Situation) -> Callable[[], object]:
    return lambda: s.queue.complete_chunks(s.reserve(200))


@case("reserve_chunks", "200 of one submission with 64 pairs")
def _(s: Situation) -> Callable[[], object]:
    ids = s.tagged(1)
    return ending(s, ids, lambda: s.queue.complete_chunks(s.reserve(200, strategy=EACH_ITS_OWN)))


@case("reserve_chunks", "1,000 of one submission")
def _(s: Situation) -> Callable[[], object]:
    return lambda: s.queue.complete_chunks(s.reserve(1_000))


@case("reserve_chunks", "200 of as many submissions with a pair each, PreferDistinct")
def _(s: Situation) -> Callable[[], object]:
    ids = [s.insert(pairs=1, value=value) for value in range(200)]
    return ending(s, ids, lambda: s.reserve(200, strategy=EACH_ITS_OWN))


@case("reserve_chunks", "200 of as many submissions with 64 pairs each, PreferDistinct")
def _(s: Situation) -> Callable[[], object]:
    ids = s.tagged(200)
    return ending(s, ids, lambda: s.reserve(200, strategy=EACH_ITS_OWN))


@case("reserve_chunks", "200 of as many submissions with 64 pairs each, composed")
def _(s: Situation) -> Callable[[], object]:
    ids = s.tagged(200)
    return ending(s, ids, lambda: s.reserve(200, strategy=PREFERRED))


@case("reserve_chunks", "the last chunks of 200 submissions with 64 pairs each")
def _(s: Situation) -> Callable[[], object]:
    ids = [s.insert(1, pairs=MAX_STRATEGIC_PAIRS, value=value) for value in range(200)]
    return ending(s, ids, lambda: s.reserve(200, strategy=EACH_ITS_OWN))


@case("complete_chunks", "200 of one submission")
def _(s: Situation) -> Callable[[], object]:
    tokens = s.reserve(200)
    return lambda: s.queue.complete_chunks(tokens)


@case("complete_chunks", "1,000 of one submission")
def _(s: Situation) -> Callable[[], object]:
    tokens = s.reserve(1_000)
    return lambda: s.queue.complete_chunks(tokens)


@case("complete_chunks", "200 of as many submissions with a pair each")
def _(s: Situation) -> Callable[[], object]:
    ids = [s.insert(pairs=1, value=value) for value in range(200)]
    tokens = s.reserve(200, strategy=EACH_ITS_OWN)
    return ending(s, ids, lambda: s.queue.complete_chunks(tokens))


@case("complete_chunks", "200 of as many submissions with 64 pairs each")
def _(s: Situation) -> Callable[[], object]:
    ids = s.tagged(200)
    tokens = s.reserve(200, strategy=EACH_ITS_OWN)
    return ending(s, ids, lambda: s.queue.complete_chunks(tokens))


@case("complete_chunks", "the last chunks of 200 submissions with 64 pairs each")
def _(s: Situation) -> Callable[[], object]:
    for value in range(200):
        s.insert(1, pairs=MAX_STRATEGIC_PAIRS, value=value)
    tokens = s.reserve(200, strategy=EACH_ITS_OWN)
    return lambda: s.queue.complete_chunks(tokens)


@case("complete_chunks", "200 of as many cancelled submissions")
def _(s: Situation) -> Callable[[], object]:
    ids = s.tagged(200)
    tokens = s.reserve(200, strategy=EACH_ITS_OWN)
    for id_ in ids:
        s.queue.cancel_submission(id_)
    return lambda: s.queue.complete_chunks(tokens)


@case("release_chunks", "200 of one submission")
def _(s: Situation) -> Callable[[], object]:
    tokens = s.reserve(200)
    return lambda: s.queue.release_chunks(tokens)


@case("release_chunks", "1,000 of one submission")
def _(s: Situation) -> Callable[[], object]:
    tokens = s.reserve(1_000)
    return lambda: s.queue.release_chunks(tokens)


@case("release_chunks", "200 of one submission with 64 pairs")
def _(s: Situation) -> Callable[[], object]:
    ids = s.tagged(1)
    tokens = s.reserve(200, strategy=EACH_ITS_OWN)
    return ending(s, ids, lambda: s.queue.release_chunks(tokens))


@case("release_chunks", "200 of as many submissions with 64 pairs each, delayed")
def _(s: Situation) -> Callable[[], object]:
    ids = s.tagged(200)
    tokens = s.reserve(200, strategy=EACH_ITS_OWN)
    return ending(s, ids, lambda: s.queue.release_chunks(tokens, delay_ms=1, reason="a reason"))


@case("reserve_chunks", "100 delayed ones are due, with 64 pairs each")
def _(s: Situation) -> Callable[[], object]:
    ids = [s.insert(1, pairs=MAX_STRATEGIC_PAIRS, value=value) for value in range(100)]
    s.queue.release_chunks(s.reserve(100, strategy=EACH_ITS_OWN), delay_ms=1)
    s.clock[0] += 2
    return ending(s, ids, lambda: s.reserve(1))


@case("reserve_chunks", "1,000 suspects wait")
def _(s: Situation) -> Callable[[], object]:
    s.make_suspects(1_000)
    s.reclaim_dead()

    def act() -> None:
        reserved = s.queue.reserve_chunks(
            "worker-alone", limit=200, strategy=PREFERRED, alone=True,
            heartbeat_timeout_ms=LONG_MS, reservation_ms=LONG_MS,
        ).chunks  # fmt: skip
        s.queue.complete_chunks([chunk.token for chunk in reserved])

    return act


@case("reserve_chunks", "9,000 begun")
def _(s: Situation) -> Callable[[], object]:
    def act() -> None:
        reserved = s.queue.reserve_chunks(
            BIG, limit=200, strategy=Oldest(), begun=s.held, reservation_ms=LONG_MS
        ).chunks
        s.queue.complete_chunks([chunk.token for chunk in reserved])

    return act


@case("cancel_submission", "20,000 chunks in hand, 64 pairs")
def _(s: Situation) -> Callable[[], object]:
    ids = s.tagged(1)
    tokens = s.reserve(5_000, strategy=EACH_ITS_OWN)
    s.queue.heartbeat(SMALL, tokens=tokens, timeout_ms=LONG_MS)
    return lambda: s.queue.cancel_submission(ids[0])


@case("retry_submission", "9,000 chunks delayed")
def _(s: Situation) -> Callable[[], object]:
    id_ = s.insert(9_000, pairs=MAX_STRATEGIC_PAIRS)
    tokens = s.reserve(9_000, strategy=EACH_ITS_OWN)
    for first in range(0, len(tokens), 100):
        s.queue.release_chunks(tokens[first : first + 100], delay_ms=10**9)
    s.queue.cancel_submission(id_)

    def act() -> None:
        s.queue.retry_submission(id_)

    return ending(s, [id_], act)


@case("update_metadata", "64 pairs, all of them changed")
def _(s: Situation) -> Callable[[], object]:
    (id_,) = s.tagged(1)
    changes = {f"key-{n:02}": 12_345 for n in range(MAX_STRATEGIC_PAIRS)}
    return ending(s, [id_], lambda: s.queue.update_metadata(id_, changes))


@case("insert_submission", "64 pairs")
def _(s: Situation) -> Callable[[], object]:
    ids: list[SubmissionId] = []
    return ending(s, ids, lambda: ids.extend(s.tagged(1)))


@case("insert_submission", "10,000 chunks in Redis")
def _(s: Situation) -> Callable[[], object]:
    new = NewSubmission(
        prefix=fresh_prefix(s.queue.name), chunks_total=10_000, inline=[b"x" * 26] * 10_000
    )
    ids: list[SubmissionId] = []
    return ending(s, ids, lambda: ids.append(s.queue.insert_submission(new).id))


@case("list_reservations", "a page of 1,000")
def _(s: Situation) -> Callable[[], object]:
    return s.queue.list_reservations


@case("get_reservations", "1,000 tokens")
def _(s: Situation) -> Callable[[], object]:
    return lambda: s.queue.get_reservations(s.held[:1_000])


@case("list_submissions", "1,000 with 64 pairs each")
def _(s: Situation) -> Callable[[], object]:
    ids = s.tagged(1_000)
    return ending(s, ids, lambda: s.queue.list_submissions(limit=1_000))


@case("lookup_submissions", "1,000 by two pairs")
def _(s: Situation) -> Callable[[], object]:
    ids = [s.insert(pairs=3) for _ in range(1_000)]
    wanted = {"key-00": 0, "key-01": 0}
    return ending(s, ids, lambda: s.queue.lookup_submissions(wanted))


@case("lookup_submissions", "1,000 by 64 pairs")
def _(s: Situation) -> Callable[[], object]:
    ids = [s.insert(pairs=MAX_STRATEGIC_PAIRS) for _ in range(1_000)]
    wanted = {f"key-{n:02}": 0 for n in range(MAX_STRATEGIC_PAIRS)}
    return ending(s, ids, lambda: s.queue.lookup_submissions(wanted))


@case("list_delayed", "9,000 chunks delayed")
def _(s: Situation) -> Callable[[], object]:
    id_ = s.insert(9_000, pairs=1)
    tokens = s.reserve(9_000, strategy=EACH_ITS_OWN)
    for first in range(0, len(tokens), 1_000):
        s.queue.release_chunks(tokens[first : first + 1_000], delay_ms=10**9)

    def act() -> None:
        s.queue.run(commands.list_delayed(id_))
        s.queue.run(commands.list_delayed(id_, limit=commands.MAX_DELAYED))

    return ending(s, [id_], act)


@case("count_queue", "all of it")
def _(s: Situation) -> Callable[[], object]:
    return s.queue.count_queue


@case("count_cells", "2,000 cells of a million chunks")
def _(s: Situation) -> Callable[[], object]:
    return lambda: s.queue.count_cells(s.plain, chunks_per_cell=512, first_cell=0, limit=2_000)


@case("unknown_prefixes", "1,000 prefixes")
def _(s: Situation) -> Callable[[], object]:
    prefixes = [fresh_prefix(s.queue.name) for _ in range(1_000)]
    return lambda: s.queue.unknown_prefixes(prefixes)


@case("discard_prefixes", "1,000 prefixes")
def _(s: Situation) -> Callable[[], object]:
    prefixes = [fresh_prefix(s.queue.name) for _ in range(1_000)]

    def act() -> None:
        s.queue.discard_prefixes(prefixes)
        while found := s.queue.forget_submissions(deleted_prefixes=prefixes, limit=1_000).prefixes:
            prefixes[:] = found

    return act


def measure(situation: Situation, one: Case, *, rounds: int) -> tuple[float, int]:
    """Return the longest call of the case's script, in ms of CPU, and how many calls there were.

    Of each call, as the first or the tenth of its round, the best round counts.
    """
    best: list[float] = []
    for _ in range(rounds):
        act = one.prepare(situation)
        with calls_of(situation.client, one.script) as took:
            act()
        while LEFT:
            LEFT.pop()()
        best = [min(pair) for pair in zip_longest(best, took, fillvalue=float("inf"))]
    return max(best) * 1000, len(best)


@contextmanager
def calls_of(client: redis.Redis, script: str) -> Iterator[list[float]]:
    """Note the CPU time of the server's main thread for each call of a script outside pipelines."""
    sha, execute = load_script(script).sha, client.execute_command
    took: list[float] = []

    def noting(*words: Any, **options: Any) -> Any:  # noqa: ANN401 as redis-py's own
        if words[:2] != ("EVALSHA", sha):
            return execute(*words, **options)
        before = main_thread_cpu_s(client)
        answer = execute(*words, **options)
        took.append(main_thread_cpu_s(client) - before)
        return answer

    client.execute_command = noting  # type: ignore[method-assign]
    try:
        yield took
    finally:
        client.execute_command = execute  # type: ignore[method-assign]


def scripts(chosen: argparse.Namespace) -> None:
    report = Report("scale_scripts", options=vars(chosen))
    with (
        tempfile.TemporaryDirectory() as folder,
        EmbeddedServer(Path(folder), is_durable=False) as server,
    ):
        client: Any = connect(server.url)
        report.say_where(client)
        for name in (*(transition.name for transition in TRANSITIONS), *READINGS):
            client.script_load(load_script(name).text)
        situation = build_situation(
            client, workers=chosen.workers, held=chosen.held, of_one=chosen.of_one
        )
        table = report.table(
            {
                "script": "`{script}`",
                "situation": "{situation}",
                "longest call": "{ms:.1f} ms",
                "calls": "{calls:,}",
            }
        )
        for one in CASES:
            if chosen.only and one.script not in chosen.only:
                continue
            ms, calls = measure(situation, one, rounds=chosen.rounds)
            table.add({"script": one.script, "situation": one.situation, "ms": ms, "calls": calls})
    report.save()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parts = parser.add_subparsers(required=True)
    part = parts.add_parser("scripts")
    part.add_argument("--workers", type=int, default=10_000)
    part.add_argument("--held", type=int, default=50_000)
    part.add_argument("--of-one", type=int, default=9_000)
    part.add_argument("--rounds", type=int, default=3)
    part.add_argument("--only", nargs="+", default=[])
    part.set_defaults(run=scripts)
    chosen = parser.parse_args()
    chosen.run(chosen)


if __name__ == "__main__":
    main()
