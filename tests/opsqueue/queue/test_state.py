"""The table in state.py, the scripts in lua/ and the methods of `Queue` say the same."""

from __future__ import annotations

import inspect
import re
import shutil
import subprocess
from pathlib import Path

import pytest

import opsqueue
from opsqueue.queue.queue import Queue
from opsqueue.queue.state import READINGS, TRANSITIONS, Transition, as_diagram, as_markdown

ROOT = Path(__file__).parents[3]
LUA = Path(opsqueue.__file__).parent / "queue" / "lua"
SCRIPTS = sorted(path for path in LUA.glob("*.lua") if not path.name.startswith("_"))
SHARED = sorted(LUA.glob("_*.lua"))
IN_FRONT = [LUA / f"{name}.lua" for name in ("_prelude", "_index", "_chunk")]
HELPERS = [
    name
    for path in SHARED
    for name in re.findall(r"^local function (\w+)", path.read_text(), re.MULTILINE)
]

# Not scripts of their own: blocking reads of a stream, and many calls in one round trip.
NO_SCRIPTS = {
    "remove_limit",  # a limit set to nothing
    "wait_for_wake",
    "wait_for_news",
    "wait_for_events",
    "last_event_id",
    "together",
    "fail_chunks",  # many calls of one
    "parts",
    "part_of",
}


def code_of(path: Path) -> str:
    """Without comments and without texts."""
    text = re.sub(r"--.*", "", path.read_text())
    return re.sub(r"'[^'\n]*'|\"[^\"\n]*\"", "''", text)


def test_each_transition_and_reading_is_a_script() -> None:
    """No script without its row, no row without its script."""
    assert sorted([*(t.name for t in TRANSITIONS), *READINGS]) == [path.stem for path in SCRIPTS]


def test_each_transition_and_reading_is_a_method_of_queue() -> None:
    """The nouns and verbs are the same on every floor."""
    methods = {
        name
        for name, _ in inspect.getmembers(Queue, inspect.isfunction)
        if not name.startswith("_")
    }

    assert {*(t.name for t in TRANSITIONS), *READINGS} == methods - NO_SCRIPTS


@pytest.mark.parametrize("transition", TRANSITIONS, ids=lambda t: t.name)
def test_a_transitions_script_begins_with_its_arrow(transition: Transition) -> None:
    """Who reads the script reads the row of the table first."""
    first = (LUA / f"{transition.name}.lua").read_text().splitlines()[0]

    assert first == f"-- {transition.name}: {transition.arrow}."


@pytest.mark.parametrize("name", READINGS)
def test_a_readings_script_says_so(name: str) -> None:
    """It changes nothing."""
    text = (LUA / f"{name}.lua").read_text()

    assert text.splitlines()[0] == f"-- {name}: reading."
    assert not re.search(r"'(H?SET|DEL|HDEL|ZADD|ZREM|XADD|HINCRBY|UNLINK|SADD|SREM)'", text)


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_a_script_declares_its_keys_arguments_and_answers(path: Path) -> None:
    """The loader reads the arguments from there, so that text and call can't drift apart."""
    header = re.split(r"^[^-]", path.read_text(), maxsplit=1, flags=re.MULTILINE)[0]
    numbers = [int(n) for n in re.findall(r"^-- ARGV\[(\d+)", header, re.MULTILINE)]

    assert re.search(r"^-- KEYS\[1\]\s+base\b", header, re.MULTILINE)
    assert re.search(r"^-- ARGV\[1\]\s+now\b", header, re.MULTILINE)
    assert re.search(r"^-- Returns ", header, re.MULTILINE)
    assert list(range(1, len(numbers) + 1)) == numbers


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_a_script_uses_every_argument_that_it_declares(path: Path) -> None:
    """By its number; the rest begins where the header says."""
    text = path.read_text()
    declared = re.findall(r"^-- ARGV\[(\d+)(\.\.\.)?\]", text, re.MULTILINE)

    for number, dots in declared:
        if number == "1":
            continue  # now: the prelude's
        is_used = f"ARGV[{number}]" in code_of(path) or (
            dots and re.search(r"for i = |sets_of_pairs\(" + number, text)
        )
        assert is_used, f"ARGV[{number}]"


@pytest.mark.parametrize("path", [*SCRIPTS, *SHARED], ids=lambda path: path.stem)
def test_a_script_can_be_read_in_one_sitting(path: Path) -> None:
    """What several share may be twice as long."""
    assert path.read_text().count("\n") <= (270 if path in SHARED else 150)


@pytest.mark.parametrize("path", [*SCRIPTS, *SHARED], ids=lambda path: path.stem)
def test_no_script_uses_what_real_servers_lack(path: Path) -> None:
    """Fakeredis has os, io and require; a server does not."""
    assert not re.findall(r"\b(os|io|require|dofile|loadfile|debug|print)\b", code_of(path))


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_no_script_asks_the_clock_but_the_prelude(path: Path) -> None:
    """One instant a script; tests give it."""
    assert "'TIME'" not in path.read_text()


def test_luacheckrc_knows_what_the_prelude_defines() -> None:
    """Its list is what scripts may use without defining it."""
    defined = set()
    for line in "".join(path.read_text() for path in IN_FRONT).splitlines():
        if match := re.match(r"local function (\w+)", line):
            defined.add(match[1])
        elif match := re.match(r"local ([\w, ]+?)(?: =|$)", line):
            defined.update(match[1].replace(" ", "").split(","))
    rc = (ROOT / ".luacheckrc").read_text()
    listed = re.search(r"local prelude = \{(.*?)\}", rc, re.DOTALL)

    assert listed is not None
    assert defined == set(re.findall(r'"(\w+)"', listed[1]))


@pytest.mark.parametrize("name", HELPERS)
def test_what_the_prelude_defines_is_used(name: str) -> None:
    """luacheck can't see it: the prelude is in front of every script."""
    uses = sum(len(re.findall(rf"\b{name}\b", code_of(path))) for path in [*SCRIPTS, *SHARED])

    assert uses > 1


def test_luacheck_finds_nothing() -> None:
    """Typos become nil in Lua, and only when the line is reached."""
    luacheck = shutil.which("luacheck")
    if luacheck is None:
        pytest.skip("luacheck is not installed (Debian: lua-check)")

    done = subprocess.run(
        [luacheck, "--no-color", "--quiet", "opsqueue/queue/lua"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stdout


def test_the_printed_table_has_a_row_a_transition() -> None:
    """ARCHITECTURE.md takes it from here."""
    rows = as_markdown().splitlines()[2:]

    assert [f"| `{t.name}` | {t.arrow} | {t.guard} |" for t in TRANSITIONS] == rows


def test_the_printed_diagram_shows_the_life_of_a_chunk() -> None:
    """From insert to completed; transitions of whole submissions are not in it."""
    diagram = as_diagram()

    assert diagram.startswith("stateDiagram-v2\n    [*] --> ready: insert_submission\n")
    assert "    reserved --> completed: complete_chunks\n" in diagram
    assert "    lost --> ready: repair\n" in diagram
    assert "pause_queue" not in diagram


def test_the_architecture_page_shows_the_table_and_the_diagram() -> None:
    """Printed by `python -m opsqueue.queue.state`, never by hand."""
    page = (ROOT / "ARCHITECTURE.md").read_text()

    assert as_markdown() in page
    assert f"```mermaid\n{as_diagram().strip()}\n```\n" in page
