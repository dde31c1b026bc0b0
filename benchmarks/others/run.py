"""N operations `x -> x + 1` through opsqueue and other queues, with checked results.

    python benchmarks/others/run.py                       # all, some minutes
    python benchmarks/others/run.py --only opsqueue huey --operations 20000
    python benchmarks/others/run.py --json results.json

All use the same server (embedded, with an append-only file) in the same run, one after the other,
each in its own virtual environment with the pinned versions of requirements/, created once in
~/.cache/opsqueue-benchmarks. Two processes run operations and have started before the clock starts.
The clock stops when the producer has every result, in order, and each is correct. with_NAME.py has
a queue's settings and their reasons.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import json
import os
import platform
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from opsqueue.queue.connection import connect
from opsqueue.testing.embedded import EmbeddedServer

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from report import Report  # noqa: E402 beside the other benchmarks

CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "opsqueue-benchmarks"
NAMES = (
    "opsqueue",
    "opsqueue_stored",
    "celery",
    "rq",
    "dramatiq",
    "arq",
    "taskiq",
    "streaq",
    "huey",
)
BATCHING = {
    "opsqueue": (10, 100, 1000),
    "opsqueue_stored": (10, 100, 1000),
    "celery": (10, 100, 1000),
}
"""Queues with their own form of chunks. With others one can submit lists of operations as single
jobs, with errors, retries and results for the whole list; that is not measured."""
OPERATIONS = {1: 10_000, 10: 50_000, 100: 100_000, 1000: 1_000_000}
"""Operations by chunk size, unless the queue is among SLOW."""
SLOW = {
    "celery": {1: 3_000, 10: 10_000, 100: 50_000, 1000: 100_000},
    "rq": {1: 1_000},
    "arq": {1: 3_000},
    "taskiq": {1: 3_000},
    "streaq": {1: 3_000},
    "opsqueue_stored": {1: 3_000, 10: 30_000},
}
"""Fewer operations for queues that would take minutes; a rate needs no more."""
COLUMNS = {
    "queue": "{queue} {version}",
    "chunk size": "{chunk_size:,}",
    "operations a second": "{operations_per_s:,.0f}",
    "us an operation": "{us_per_operation:,.1f}",
    "of opsqueue at that size": "{of_opsqueue}",
}
WITHIN_S = 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    queue: str
    version: str
    chunk_size: int
    operations: int
    seconds: float

    @property
    def operations_per_s(self) -> float:
        return self.operations / self.seconds


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=NAMES, default=list(NAMES))
    parser.add_argument("--operations", type=int, help="at every chunk size, of every queue")
    parser.add_argument("--sizes", nargs="+", type=int, default=[1, 10, 100, 1000])
    parser.add_argument("--rounds", type=int, default=2, help="the best of so many counts")
    parser.add_argument("--quick", action="store_true", help="whether all of it works")
    parser.add_argument("--json", type=Path, help="write the rows there, too")
    chosen = parser.parse_args()

    if chosen.quick:
        chosen.operations, chosen.sizes, chosen.rounds = 1_000, [1, 100], 1
    report = Report("others", options=vars(chosen))
    # On a signal to end, it also ends the processes that it started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    rows: list[Row] = []
    failed: set[str] = set()
    with (
        tempfile.TemporaryDirectory(prefix="opsqueue-bench-") as name,
        EmbeddedServer(Path(name) / "redis") as server,
    ):
        client = connect(server.url)
        report.say_where(client)
        for number in range(chosen.rounds):
            # Once in the order of the names, once in reverse, since other load on the machine
            # changes.
            for queue in chosen.only if number % 2 == 0 else reversed(chosen.only):
                client.flushall()
                try:
                    rows += measure(queue, server.url, Path(name) / f"{queue}-{number}", chosen)
                except (OSError, RuntimeError, subprocess.CalledProcessError) as exc:
                    failed.add(queue)
                    print(f"{queue}: {exc}", file=sys.stderr)
        client.close()
    put_down(best_of(rows), report)
    path = report.save()
    if chosen.json:
        chosen.json.write_text(path.read_text())
    if failed:
        raise SystemExit(f"not measured: {', '.join(sorted(failed))}; why stands above")


def measure(queue: str, redis_url: str, folder: Path, chosen: argparse.Namespace) -> list[Row]:
    python, version = environment_of(queue)
    folder.mkdir()
    environment = {
        **os.environ,
        "BENCH_REDIS_URL": redis_url,
        "BENCH_FOLDER": str(folder),
        "BENCH_PORT": str(free_port()),
        "PATH": f"{python.parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(HERE),
    }
    rows = []
    with (
        workers_of(queue, python, environment, folder),
        producer_of(queue, python, environment) as ask,
    ):
        ask(100, 1)  # everything is up and loaded, on both sides
        for size in (1, *BATCHING.get(queue, ())):
            if size not in chosen.sizes:
                continue
            operations = chosen.operations or SLOW.get(queue, {}).get(size, OPERATIONS[size])
            row = Row(
                queue=queue,
                version=version,
                chunk_size=size,
                operations=operations,
                seconds=ask(operations, size),
            )
            print(
                f"{queue} {version}, {size}: {row.operations_per_s:,.0f} a second", file=sys.stderr
            )
            rows.append(row)
    return rows


def best_of(rows: Sequence[Row]) -> list[Row]:
    """Return the best row of each queue and chunk size, in the order of first appearance."""
    best: dict[tuple[str, int], Row] = {}
    for row in rows:
        key = row.queue, row.chunk_size
        best[key] = min(best.get(key, row), row, key=lambda row: row.seconds)
    return list(best.values())


def environment_of(queue: str) -> tuple[Path, str]:
    """Return a Python with the queue installed, and its version; created at the first call."""
    if queue.startswith("opsqueue"):
        return Path(sys.executable), importlib.metadata.version("opsqueue-redis")
    requirements = HERE / "requirements" / f"{queue}.txt"
    pins = requirements.read_text()
    version = next(
        line.partition("==")[2] for line in pins.splitlines() if line.startswith(f"{queue}==")
    )
    stamp = hashlib.sha256((pins + platform.python_version()).encode()).hexdigest()[:12]
    folder = CACHE / f"{queue}-{stamp}"
    python = folder / "bin" / "python"
    if not (folder / "ready").exists():
        print(f"making the environment of {queue} in {folder}", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
        pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, "-r", requirements], check=True)
        (folder / "ready").touch()
    return python, version


@contextmanager
def workers_of(
    queue: str, python: Path, environment: dict[str, str], folder: Path
) -> Iterator[None]:
    """Run the adapter's WORKERS, each in its own session, and end them afterwards."""
    script = (
        f"import json, with_{queue} as it; "
        "print(json.dumps([it.WORKERS, vars(it).get('ENVIRONMENT', {})]))"
    )
    adapter = subprocess.run(
        [python, "-c", script], env=environment, cwd=HERE, check=True, capture_output=True
    )
    commands, more = json.loads(adapter.stdout)
    log = folder / "workers.log"
    with ExitStack() as stack:
        output = stack.enter_context(log.open("wb"))
        for command in commands:
            process = subprocess.Popen(
                [python.parent / command[0], *command[1:]],
                env=environment | more,
                cwd=HERE,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
            stack.callback(end, process)
        try:
            yield
        except BaseException:
            print(log.read_text()[-3000:], file=sys.stderr)
            raise


def end(process: subprocess.Popen[bytes]) -> None:
    """Ask a process and its children to end, and wait until they have."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
            process.wait(timeout=20)
        except ProcessLookupError:
            return
        except subprocess.TimeoutExpired:
            pass


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Producer:
    """The parent's side of produce.py."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def __call__(self, operations: int, size: int) -> float:
        process = self._process
        if process.stdin is None or process.stdout is None:
            raise TypeError(process)
        process.stdin.write(f"{operations} {size}\n")
        process.stdin.flush()
        alarm = threading.Timer(WITHIN_S, process.kill)
        alarm.start()
        line = process.stdout.readline()
        alarm.cancel()
        if not line:
            raise RuntimeError(f"the producer ended, or took more than {WITHIN_S:g} s")
        return float(line)


@contextmanager
def producer_of(queue: str, python: Path, environment: dict[str, str]) -> Iterator[Producer]:
    process = subprocess.Popen(
        [python, HERE / "produce.py", f"with_{queue}"],
        env=environment,
        cwd=HERE,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        yield Producer(process)
    finally:
        process.kill()
        process.wait()


def put_down(rows: Sequence[Row], report: Report) -> None:
    """Print the tables of benchmarks/README.md."""
    ours = {row.chunk_size: row.operations_per_s for row in rows if row.queue == "opsqueue"}
    table = report.table(COLUMNS)
    for row in rows:
        share = row.operations_per_s / ours[row.chunk_size] if row.chunk_size in ours else None
        table.add(
            {
                **asdict(row),
                "operations_per_s": row.operations_per_s,
                "us_per_operation": 1e6 / row.operations_per_s,
                "of_opsqueue": "" if share is None else f"{share:.2f}",
            }
        )
    others = [row for row in rows if not row.queue.startswith("opsqueue") and row.chunk_size == 1]
    if ours and others:
        best = max(others, key=lambda row: row.operations_per_s)
        times = ", ".join(
            f"{rate / best.operations_per_s:,.1f} times at {size:,}" for size, rate in ours.items()
        )
        report.say(
            f"\nThe fastest other, an operation a task, is {best.queue}; "
            f"opsqueue against it: {times}."
        )


if __name__ == "__main__":
    main()
