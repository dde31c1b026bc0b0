"""Options of several programs are declared once, and every page agrees with them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from opsqueue import config
from opsqueue.model.version import __version__
from tests.command_lines import PROGRAMS, Declared, declared
from tests.documents import PAGES, ROOT

SHARED = {
    option.names[-1]: option
    for option in vars(config).values()
    if isinstance(option, config.Option)
}
# Options of different programs that have no more than their name in common.
UNLIKE = {
    "--burst": "tokens of a bucket; work until the queues are empty",
    "--max-chunk-bytes": "what an API decodes whole; what a worker takes at all",
    "--version": "click's own",
}
# Where one command differs from the others, and why.
OTHERWISE = {
    ("opsqueue acl", "--durability", "variable"): "it is not told what the API promises",
    ("opsqueue-worker", "--heartbeat-timeout", "check"): "it beats at least every 0.1 s itself",
}
# What Compose itself reads.
OF_COMPOSE = {"OPSQUEUE_WORKERS"}
TEXTS = [
    *PAGES,
    *(ROOT / name for name in ("ARCHITECTURE.md", ".env.example", "docker-compose.yml")),
    *(path for part in ("api", "worker") for path in (ROOT / part).iterdir() if path.is_file()),
    *(path for path in (ROOT / "deploy").rglob("*") if path.suffix in (".md", ".yaml", ".yml")),
]
_UNITS = {"": 1, "s": 1, "ms": 0.001, "m": 60, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
# `--shutdown-timeout` (60 s)
_DEFAULT = re.compile(rf"(--[a-z-]+)`? \((\d[\d,.]*) ?({'|'.join(filter(None, _UNITS))})?\)")

_SENTENCE = re.compile(r"[A-Z].*\.", re.DOTALL)


def by_name() -> dict[str, list[Declared]]:
    found = defaultdict(list)
    for one in declared():
        for name in one.option.opts:
            if name.startswith("--"):
                found[name].append(one)
    return found


def check_of(option: click.Option) -> dict[str, Any]:
    return {**option.type.to_info_dict()}


def test_an_option_of_several_programs_is_declared_once() -> None:
    """One that a second program gets goes into opsqueue/config.py."""
    several = {name for name, found in by_name().items() if len({one.program for one in found}) > 1}

    assert several - UNLIKE.keys() == SHARED.keys()
    assert several >= UNLIKE.keys()


@pytest.mark.parametrize("name", SHARED)
def test_it_is_the_same_in_every_command(name: str) -> None:
    """Variable, default and check, but for the exceptions, which have their reasons."""
    option = SHARED[name]

    for one in by_name()[name]:
        differs = {
            "names": set(option.names) <= {*one.option.opts},
            "variable": one.variable == option.variable or not option.variable,
            # No default is none anywhere: then the API is asked, or an error says what is missing.
            "default": one.option.to_info_dict()["default"] in (option.default, None),
            "check": option.check is None or check_of(one.option) == option.check.to_info_dict(),
        }
        wrong = {what for what, is_same in differs.items() if not is_same}
        assert wrong == {what for at, of, what in OTHERWISE if (at, of) == (one.command, name)}


@pytest.mark.parametrize("program", PROGRAMS)
def test_help_names_the_variable_of_every_option(program: str) -> None:
    """--version is an exception, since a deployment may have a variable of that name."""
    unnamed = {
        one.option.opts[0]
        for one in declared()
        if one.program == program and not one.option.show_envvar
    }

    assert unnamed <= {"--version"}


def commands() -> dict[str, click.Command]:
    """All of them, those within groups too, by what is typed."""
    found = dict(PROGRAMS)
    for path, command in PROGRAMS.items():
        if isinstance(command, click.Group):
            found |= below(path, command)
    return found


def below(path: str, group: click.Group) -> dict[str, click.Command]:
    found: dict[str, click.Command] = {}
    for name, command in group.commands.items():
        found[f"{path} {name}"] = command
        if isinstance(command, click.Group):
            found |= below(f"{path} {name}", command)
    return found


@pytest.mark.parametrize("program", PROGRAMS)
def test_the_programs_print_their_versions_alike(program: str) -> None:
    shown = CliRunner().invoke(PROGRAMS[program], ["--version"])

    assert (0, f"{program} {__version__}\n") == (shown.exit_code, shown.output)


def test_no_list_of_commands_is_cut() -> None:
    """Each command stands there with its whole first sentence."""
    groups = {path: one for path, one in commands().items() if isinstance(one, click.Group)}
    for path, group in groups.items():
        shown = " ".join(CliRunner().invoke(group, ["--help"]).output.split())
        for name, command in group.commands.items():
            sentence = " ".join((command.help or "").partition("\n\n")[0].split())
            assert f"{name} {sentence.removesuffix('.')}" in shown, f"{path} {name}"

    assert len(groups) > 4


def test_help_texts_are_sentences() -> None:
    """Of every option, which has one, and of every command."""
    texts = {
        f"{one.command} {one.option.opts[-1]}": re.sub(r" *\[.*\]$", "", one.option.help or "")
        for one in declared()
    }
    texts |= {path: (one.help or "").partition("\n\n")[0] for path, one in commands().items()}

    assert [] == [name for name, text in texts.items() if not _SENTENCE.fullmatch(text)]


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_variable_that_is_named_is_one_of_an_option(path: Path) -> None:
    """One that nobody reads would be ignored in silence."""
    named = set(re.findall(r"OPSQUEUE_[A-Z_]+[A-Z]\b", path.read_text()))

    assert named - {one.variable for one in declared()} - OF_COMPOSE == set()


def test_a_default_that_is_named_is_the_options() -> None:
    """As in: --shutdown-timeout (60 s)."""
    named = [
        (name, float(number.replace(",", "")) * _UNITS[unit])
        for path in TEXTS
        for name, number, unit in _DEFAULT.findall(path.read_text())
    ]

    defaults = {name: {one.option.default for one in found} for name, found in by_name().items()}
    assert len(named) > 4
    assert [(name, value) for name, value in named if value not in defaults[name]] == []


@pytest.mark.parametrize(
    ("group", "files", "cores"),
    [
        ("0::/", {"cpu.max": "150000 100000"}, 2),
        ("0::/", {"cpu.max": "max 100000"}, None),
        ("0::/a/b", {"a/b/cpu.max": "max 100000", "a/cpu.max": "50000 100000"}, 1),
        ("0::/of/the/host", {"cpu.max": "100000 100000"}, 1),
        ("0::/../outside", {"cpu.max": "nonsense"}, None),
        ("4:cpu,cpuacct:/", {"cpu/cpu.cfs_quota_us": "1", "cpu/cpu.cfs_period_us": "100000"}, 1),
        ("4:cpu:/x", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None),
        ("5:cpuset:/", {"cpu.max": "100000 100000"}, None),
        ("", {}, None),
    ],
)
def test_a_containers_cpu_limit_limits_the_cores(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    group: str,
    files: dict[str, str],
    cores: int | None,
) -> None:
    """Of the process's own control group or of one above it, of either version."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)), raising=False)
    monkeypatch.setattr(os, "process_cpu_count", lambda: 64, raising=False)
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text(group)
    for name, text in files.items():
        path = tmp_path / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    assert config.usable_cores(tmp_path) == (cores or 64)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system has no affinity")
def test_a_process_that_is_bound_to_a_core_uses_one() -> None:
    program = (
        "import os; os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])\n"
        "from opsqueue import config; print(config.CONCURRENCY.default)"
    )

    shown = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )

    assert shown.stdout == "1\n"
