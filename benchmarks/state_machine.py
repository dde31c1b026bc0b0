"""The state machine alone: reserves and completes per second, relative to the server's limit.

    python benchmarks/state_machine.py
    python benchmarks/state_machine.py --strategies Oldest --batches 1 100
    python benchmarks/state_machine.py --commands     # the commands, and their number per chunk

opsqueue's scripts and bare scripts are called in the same way, by EVALSHA in pipelines of --at-once
chunks, so that round trips are hidden and the server is the limit. They take turns, --rounds of
each, and a row has the medians. Answers are not parsed, which is the client's part (`Queue`).

The bare limit: scripts with only the commands that a reservation and its end need in this data
model, each as seldom as possible. There is no clock, no branch, no check, no list of delayed
chunks, no pause and no repair, and the strategy's choice is passed in.

reserve   per call: ZADD of the worker's heartbeat, XREADGROUP of all chunks, XREVRANGE of the last
          wake-up for the answer; per submission: HMGET of its fields in the answer, HSET of cursor
          and reserved chunks; per chunk: XADD of the entry
complete  per call: XRANGE over all tokens (a report names tokens, the entries have the chunks), one
          XACK and one XDEL of all, HINCRBY of the queue's 4 totals and 2 of its rate; per
          submission: HMGET of the needed fields, HSET of its 3 counters; per chunk: SETBIT

A strategy adds the reading of its index, once per pick if picks differ and otherwise once per call.
With strategic metadata there are also HGETALL of it (it is part of the answer, and counts are by
its values) and in both scripts, for all touched values together, HSET of their counts of reserved
chunks, HINCRBY of their key's count, and ZADD of their groups in the two indexes by count.
MaxSimultaneous reads the count that it limits, HGET; RateLimit reads and writes its bucket, HGET,
HSET, ZADD. The bare answer to complete is one number, opsqueue's an outcome for each chunk.

`ratio` is opsqueue's rate by the bare limit, in chunks per second as the client sees them. `in CPU`
is the same for the CPU time of the server's main thread, which other load on the machine disturbs
less. It includes everything that a server does for a call, also reading and answering it, so it is
the limit of a queue.
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
import time
from collections import Counter, deque
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Any

import redis
from redis.client import Pipeline

from opsqueue.contents.chunks import fresh_prefix
from opsqueue.model.new_submission import NewSubmission
from opsqueue.queue.connection import connect
from opsqueue.queue.queue import Queue
from opsqueue.queue.script import load_script
from opsqueue.strategy import parse_strategy
from opsqueue.testing.embedded import EmbeddedServer
from report import Report, main_thread_cpu_s

HERE = Path(__file__).parent
SUBMISSIONS = 100  # each with a customer of its own, of ten priorities
DRAWN = random.Random(1)  # noqa: S311 picks, no secrets
WORKER = "bench"
CHUNKS = 10**9  # of each submission: more than a run takes


def bare(name: str, **parts: str) -> str:
    return Template((HERE / "bare" / f"{name}.lua").read_text()).substitute(parts)


@dataclass(frozen=True)
class Case:
    """A strategy, and its part in the bare limit."""

    strategy: str
    key: str = ""
    """Key of the submissions' strategic metadata."""
    once: str = ""
    """The reading of an index, if one reading serves all picks of a call."""
    each: str = ""
    """The reading of an index, if each pick needs its own."""
    limit: str = ""
    """The commands that a limit needs for its value."""

    @property
    def is_spread(self) -> bool:
        """True if the chunks of a call come from as many submissions as possible."""
        return bool(self.each)


CASES = (
    Case("Oldest", once=bare("first_of", index="ready")),
    Case("Newest", once=bare("first_of", index="ready")),
    Case("Random", each=bare("random_of", index="ready")),
    Case(
        "Highest(priority, Oldest)", key="priority", once=bare("first_of", index="value:priority")
    ),
    Case(
        "SelectOnly(priority, 3, Oldest)",
        key="priority",
        once=bare("first_of", index="meta:priority:3"),
    ),
    Case(
        "PreferDistinct(customer, Oldest)",
        key="customer",
        each=bare("first_of", index="oldest:customer"),
    ),
    Case(
        "MaxSimultaneous(customer, 1000, Oldest)",
        key="customer",
        once=bare("first_of", index="oldest:customer"),
        limit=bare("read_count"),
    ),
    Case(
        "RateLimit(customer, 1000000, 1000000, Oldest)",
        key="customer",
        once=bare("first_of", index="paced:customer"),
        limit=bare("use_bucket"),
    ),
)


class Ours:
    """The transitions as `Queue` calls them, without parsing the answers."""

    def __init__(self, client: redis.Redis, case: Case) -> None:
        name = f"ours-{CASES.index(case)}"
        self._queue = Queue(client, name)
        for number in range(SUBMISSIONS):
            value = {"customer": number, "priority": number % 10}.get(case.key)
            self._queue.insert_submission(
                NewSubmission(
                    prefix=fresh_prefix(name),
                    chunks_total=CHUNKS,
                    strategic_metadata={} if value is None else {case.key: value},
                )
            )
        self._base = f"oq:{{{name}}}:"
        strategy = parse_strategy(case.strategy)
        self._wire = strategy.wire()
        self._reserve = load_script("reserve_chunks")
        self._complete = load_script("complete_chunks")
        client.script_load(self._reserve.text)
        client.script_load(self._complete.text)

    def reserve(self, pipeline: Pipeline, batch: int) -> None:
        argv = ["", WORKER, batch, 600_000, self._wire, DRAWN.getrandbits(30) or 1, "", 30_000]
        pipeline.evalsha(self._reserve.sha, 1, self._base, *argv)

    def complete(self, pipeline: Pipeline, reserved: list[Any]) -> None:
        argv: list[Any] = [""]
        for token in reserved[5][::3]:
            argv += [token, 0, 0, b""]
        pipeline.evalsha(self._complete.sha, 1, self._base, *argv)


class Bare:
    """The same commands without any logic."""

    def __init__(self, client: redis.Redis, case: Case) -> None:
        self._base = f"oq:{{bare-{CASES.index(case)}}}:"
        touch = bare("touch_value") if case.key else ""
        taken, ended = (
            bare("write_values", key=case.key, sign=sign) if case.key else "" for sign in ("", "-")
        )
        self._reserve = client.script_load(
            bare(
                "reserve_chunks",
                once=case.once,
                each=case.each,
                touch=f"{case.limit}\n{touch}",
                write=taken,
            )
        )
        self._complete = client.script_load(bare("complete_chunks", touch=touch, write=ended))
        self._is_spread, self._is_random = case.is_spread, case.strategy == "Random"
        self._cursors = [0] * SUBMISSIONS
        self._next = 0
        self._in_hand: deque[list[Any]] = deque()
        self._fill(client, case)

    def _fill(self, client: redis.Redis, case: Case) -> None:
        client.xgroup_create(self._base + "reservations", "workers", "0", mkstream=True)
        client.xadd(self._base + "wake", {"at": 1})
        ours = Queue(client, f"ours-{CASES.index(case)}")
        page = ours.list_submissions(order="oldest", limit=SUBMISSIONS)
        self._ids = [str(submission.id) for submission in page.submissions]
        for id_ in self._ids:
            fields = client.hgetall(f"oq:{{ours-{CASES.index(case)}}}:sub:{id_}")
            client.hset(self._base + "sub:" + id_, mapping=fields)
            client.hset(self._base + "sub:" + id_ + ":meta", case.key or "none", 1)
            for index in ("ready", "value:priority", "meta:priority:3", "paced:customer"):
                client.zadd(self._base + index, {id_: 0})

    def reserve(self, pipeline: Pipeline, batch: int) -> None:
        if self._is_random:
            picks = [DRAWN.randrange(SUBMISSIONS) for _ in range(batch)]
        elif self._is_spread:
            picks = [(self._next + number) % SUBMISSIONS for number in range(batch)]
            self._next += batch
        else:
            picks = [0] * batch
        parts = Counter(picks)
        ranges: list[Any] = []
        for number, count in parts.items():
            ranges += [self._ids[number], self._cursors[number], count]
            self._cursors[number] += count
        self._in_hand.append(ranges)
        now = time.time_ns() // 10**6
        pipeline.evalsha(self._reserve, 1, self._base, WORKER, batch, now, now + 600_000, *ranges)

    def complete(self, pipeline: Pipeline, reserved: list[Any]) -> None:
        tokens = [entry[0] for entry in reserved[0][0][1]]
        slot = time.time_ns() // 10**10
        ranges = self._in_hand.popleft()
        pipeline.evalsha(self._complete, 1, self._base, len(tokens), slot, *tokens, *ranges)


@dataclass(frozen=True)
class Round:
    """The cost of a chunk, reserve and complete together."""

    wall_us: float
    cpu_us: float
    commands: dict[str, float]


COLUMNS = {
    "strategy": "`{strategy}`",
    "batch": "{batch:,}",
    "chunks a second": "{rate:,.0f}",
    "bare limit": "{bare_rate:,.0f}",
    "ratio": "{ratio:.0%}",
    "in CPU": "{cpu_ratio:.0%}",
    "CPU a chunk": "{cpu_us:.1f} us",
    "commands a chunk": "{commands:.1f}",
    "bare": "{bare_commands:.1f}",
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--strategies", nargs="+", default=[case.strategy for case in CASES])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 10, 100, 1_000])
    parser.add_argument("--chunks", type=int, default=4_000, help="of a round")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--at-once", type=int, default=200, help="chunks in a pipeline, or a batch")
    parser.add_argument("--commands", action="store_true", help="list each command's number, too")
    chosen = parser.parse_args()

    report = Report("state_machine", options=vars(chosen))
    with (
        tempfile.TemporaryDirectory(prefix="opsqueue-bench-") as folder,
        EmbeddedServer(Path(folder), is_durable=False) as server,
    ):
        client = connect(server.url)
        report.say_where(client)
        table = report.table(COLUMNS)
        listed = []
        for case in CASES:
            if not case.strategy.startswith(tuple(chosen.strategies)):
                continue
            for batch in chosen.batches:
                row, ours, bare = measure(client, case, batch, chosen)
                table.add(row)
                listed.append((row, ours, bare))
                client.flushall()
        if chosen.commands:
            for row, ours, bare in listed:
                report.say(f"\n{row['strategy']}, batch {row['batch']}, commands a chunk:")
                for name in sorted({*ours, *bare}, key=lambda name: -ours.get(name, 0)):
                    report.say(f"{name:>18} {ours.get(name, 0):6.2f} {bare.get(name, 0):6.2f}")
        client.close()
    report.save()


def measure(
    client: redis.Redis, case: Case, batch: int, chosen: argparse.Namespace
) -> tuple[dict[str, Any], dict[str, float], dict[str, float]]:
    """Run opsqueue's and the bare scripts in turns; return the row, and the commands of both."""
    sides = (Ours(client, case), Bare(client, case))
    for side in sides:
        run_round(client, side, batch, 2 * batch, chosen.at_once)
    rounds: tuple[list[Round], list[Round]] = ([], [])
    for number in range(chosen.rounds):
        for at in (0, 1) if number % 2 else (1, 0):
            rounds[at].append(run_round(client, sides[at], batch, chosen.chunks, chosen.at_once))
    wall, bare_wall = (statistics.median(r.wall_us for r in side) for side in rounds)
    cpu, bare_cpu = (statistics.median(r.cpu_us for r in side) for side in rounds)
    commands, bare_commands = rounds[0][-1].commands, rounds[1][-1].commands
    row = {
        "strategy": case.strategy,
        "batch": batch,
        "rate": 1e6 / wall,
        "bare_rate": 1e6 / bare_wall,
        "ratio": bare_wall / wall,
        "cpu_ratio": bare_cpu / cpu,
        "cpu_us": cpu,
        "bare_cpu_us": bare_cpu,
        "commands": sum(commands.values()),
        "bare_commands": sum(bare_commands.values()),
    }
    return row, commands, bare_commands


def run_round(
    client: redis.Redis, side: Ours | Bare, batch: int, chunks: int, at_once: int
) -> Round:
    calls = max(1, at_once // batch)
    pipelines = max(1, chunks // (calls * batch))
    client.config_resetstat()
    cpu_before_s = main_thread_cpu_s(client)
    began = time.perf_counter()
    for _ in range(pipelines):
        pipeline = client.pipeline(transaction=False)
        for _ in range(calls):
            side.reserve(pipeline, batch)
        answers = pipeline.execute()
        for answer in answers:
            side.complete(pipeline, answer)
        pipeline.execute()
    wall_s = time.perf_counter() - began
    cpu_took_s = main_thread_cpu_s(client) - cpu_before_s
    done = pipelines * calls * batch
    stats: dict[str, dict[str, int]] = client.info("commandstats")
    scripts = stats.pop("cmdstat_evalsha")
    if scripts["calls"] != 2 * pipelines * calls or scripts["failed_calls"]:
        raise SystemExit(f"{scripts} for {2 * pipelines * calls} calls: not what was to be timed")
    commands = {
        name.removeprefix("cmdstat_"): of["calls"] / done
        for name, of in stats.items()
        if name not in ("cmdstat_info", "cmdstat_config|resetstat")
    }
    return Round(wall_s * 1e6 / done, cpu_took_s * 1e6 / done, commands)


if __name__ == "__main__":
    main()
