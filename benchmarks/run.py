"""All benchmarks one after the other, as `make bench` runs them.

    python benchmarks/run.py                      # half an hour; run nothing else meanwhile
    python benchmarks/run.py --only small limits
    python benchmarks/run.py --quick              # smaller numbers, to see that all of it works
    python benchmarks/run.py --tables             # runs nothing, prints the last results
    python benchmarks/run.py --write              # writes the last results into README.md here

Each runs in a separate process, can also be run alone, prints its tables, and saves its results in
`benchmarks/results/NAME.json`. If one fails the others still run, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from report import RESULTS

HERE = Path(__file__).parent
PAGE = HERE / "README.md"


@dataclass(frozen=True)
class Benchmark:
    name: str
    path: str
    options: tuple[str, ...] = ()
    quick: tuple[str, ...] = ()
    """Options with --quick, instead of `options` or the defaults."""
    section: str = ""
    """The section of README.md, unless the path alone names it."""


BENCHMARKS = (
    Benchmark("end_to_end", "end_to_end.py", quick=("--operations", "100000")),
    Benchmark(
        "hundred_million",
        "end_to_end.py",
        ("--name", "hundred_million", "--operations", "100000000", "--not-durable"),
        ("--name", "hundred_million", "--operations", "1000000", "--not-durable"),
        section="end_to_end.py --operations 100000000",
    ),
    Benchmark(
        "state_machine",
        "state_machine.py",
        quick=("--rounds", "3", "--chunks", "1000", "--batches", "1", "100"),
    ),
    Benchmark(
        "submissions",
        "submissions.py",
        quick=("--rounds", "30", "--submissions", "2000", "--finished", "10000"),
    ),
    Benchmark("transfer", "transfer.py", quick=("--chunks", "500", "--single", "50")),
    Benchmark("recovery", "recovery.py", quick=("--rounds", "2")),
    Benchmark("failover", "failover.py", quick=("--rounds", "2")),
    Benchmark("scale_idle_queues", "scale_idle.py", ("queues",), ("queues", "--queues", "1", "5")),
    Benchmark(
        "scale_idle_workers", "scale_idle.py", ("workers",), ("workers", "--workers", "10", "100")
    ),
    Benchmark("scale_idle_wake", "scale_idle.py", ("wake",), ("wake", "--sleepers", "10", "50")),
    Benchmark("scale_sweep", "scale_sweep.py", quick=("--names", "10", "300", "--rounds", "2")),
    Benchmark("memory", "memory.py", quick=("--operations", "100000")),
    Benchmark("small", "small.py", quick=("--submissions", "20")),
    Benchmark(
        "worker",
        "worker.py",
        ("--chunks", "1500"),
        ("--chunks", "200", "--rounds", "1", "--slots", "2", "--prefetch", "auto"),
    ),
    Benchmark("uneven", "uneven.py", quick=("--scale", "0.2")),
    Benchmark("fairness", "fairness.py", quick=("--large", "1000", "--small", "20")),
    Benchmark(
        "limits", "limits.py", quick=("--processes", "8", "--chunks", "500", "--seconds", "5")
    ),
    Benchmark("strategies", "strategies.py", quick=("--sizes", "30", "300", "--reserves", "30")),
    Benchmark(
        "durability",
        "durability.py",
        quick=("--rounds", "2", "--seconds", "0.3", "--producers", "1"),
    ),
    Benchmark(
        "scale_scripts",
        "scale.py",
        ("scripts",),
        ("scripts", "--workers", "100", "--held", "1000", "--of-one", "500", "--rounds", "1"),
        section="scale.py scripts",
    ),
    Benchmark("others", "others/run.py", quick=("--quick",)),
)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    there = [bench for bench in BENCHMARKS if (HERE / bench.path).exists()]
    names = [bench.name for bench in there]
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="NAME")
    parser.add_argument("--skip", nargs="+", choices=names, default=[], metavar="NAME")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--tables", action="store_true")
    parser.add_argument("--write", action="store_true")
    chosen = parser.parse_args()
    wanted = [bench for bench in there if bench.name in chosen.only]
    wanted = [bench for bench in wanted if bench.name not in chosen.skip]
    if chosen.tables:
        for bench in wanted:
            print_last(bench.name)
        return 0

    if chosen.write:
        return write_page(wanted)

    failed = []
    for bench in wanted:
        options = bench.quick if chosen.quick else bench.options
        print(f"\n## {' '.join([bench.path, *options])}\n", flush=True)
        began = time.monotonic()
        code = subprocess.run([sys.executable, HERE / bench.path, *options], check=False).returncode
        ended = "done" if code == 0 else f"FAILED with exit code {code}"
        print(f"\n{bench.name}: {ended} after {time.monotonic() - began:.0f} s", flush=True)
        if code:
            failed.append(bench.name)
    print(f"\n{len(wanted) - len(failed)} of {len(wanted)} done; results in {RESULTS.name}/")
    if failed:
        print(f"failed: {', '.join(failed)}")
    return 1 if failed else 0


def last_of(name: str) -> dict[str, Any] | None:
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else None


def lines_of(table: dict[str, Any]) -> list[str]:
    columns = table["columns"]
    head = [f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}"]
    rows = [[cell.format(**row) for cell in columns.values()] for row in table["rows"]]
    return [*head, *(f"| {' | '.join(cells)} |" for cells in rows)]


def print_last(name: str) -> None:
    if (whole := last_of(name)) is None:
        return
    print(f"\n## {name}, {whole['where']['date']}")
    for line in whole["lines"]:
        print(line)
    for table in whole["tables"]:
        print("", *lines_of(table), sep="\n")


def write_page(wanted: list[Benchmark]) -> int:
    """Replace the tables of README.md by the last ones with the same header and section."""
    text, missed = PAGE.read_text(), 0
    for bench in wanted:
        for table in (last_of(bench.name) or {"tables": []})["tables"]:
            lines = lines_of(table)
            found = re.compile(
                rf"(?s:(^## `{re.escape(bench.section or bench.path)}`\n(?:(?!^## ).)*?))"
                rf"^{re.escape(lines[0])}\n(?:\|.*\n)*",
                re.MULTILINE,
            ).search(text)
            if found is None:
                print(f"{bench.name}: no table in its section begins {lines[0]}")
                missed += 1
                continue
            new = "".join(f"{line}\n" for line in lines)
            text = text[: found.end(1)] + new + text[found.end() :]
    PAGE.write_text(text)
    return 1 if missed else 0


if __name__ == "__main__":
    raise SystemExit(main())
