"""The table in state.py, the scripts in lua/ and the methods of `Queue` agree."""

from __future__ import annotations

import inspect
import re
import shutil
import subprocess
from collections import Counter
from pathlib import Path

import pytest

import opsqueue
from opsqueue.queue.due import SCRIPTS_OF_INDEX
from opsqueue.queue.queue import Queue
from opsqueue.queue.script import load_script
from opsqueue.queue.state import READINGS, TRANSITIONS, as_diagram, as_markdown

ROOT = Path(__file__).parents[3]
LUA = Path(opsqueue.__file__).parent / "queue" / "lua"
SCRIPTS = sorted(path for path in LUA.glob("*.lua") if not path.name.startswith("_"))
PARTS = sorted(LUA.glob("_*.lua"))

# Not scripts of their own: blocking reads of a stream, what runs commands, and partitions.
NO_SCRIPTS = {
    "remove_limit",  # a limit set to nothing
    "watch",
    "watching",
    "server",
    "wait_for_events",
    "wait_for_end",
    "wait_for_progress",
    "reserve_when_free",
    "last_event_id",
    "fail_chunks",  # many calls of one
    "forget_unused",  # delete_queue with a condition
    "run",
    "pipeline",
    "part",
    "parts",
    "parts_now",
}


def test_each_transition_and_reading_is_a_script() -> None:
    """No script without its row, no row without its script."""
    rows = [*(t.name for t in TRANSITIONS), *READINGS]

    assert sorted([*rows, *SCRIPTS_OF_INDEX]) == [path.stem for path in SCRIPTS]


def test_each_transition_and_reading_is_a_method_of_queue() -> None:
    """The nouns and verbs are the same on every floor."""
    methods = {
        name
        for name, _ in inspect.getmembers(Queue, inspect.isfunction)
        if not name.startswith("_")
    }

    assert {*(t.name for t in TRANSITIONS), *READINGS} == methods - NO_SCRIPTS


def test_a_script_begins_with_its_row_and_says_what_it_takes_and_answers() -> None:
    """Who reads the script reads the row of the table first; the loader checks the arguments."""
    arrows = {t.name: t.arrow for t in TRANSITIONS} | dict.fromkeys(READINGS, "reading")
    arrows |= dict.fromkeys(SCRIPTS_OF_INDEX, "index")
    for name, arrow in arrows.items():
        load_script(name)
        text = (LUA / f"{name}.lua").read_text()

        assert text.startswith(f"-- {name}: {arrow}.\n")
        assert re.search(r"^-- KEYS\[1\]\s+base\b", text, re.MULTILINE), name
        assert re.search(r"^-- ARGV\[1\]\s+now\b", text, re.MULTILINE), name
        assert re.search(r"^-- Returns ", text, re.MULTILINE), name


def test_a_reading_changes_nothing() -> None:
    """It calls no command that writes."""
    for name in READINGS:
        text = (LUA / f"{name}.lua").read_text()

        assert not re.search(r"'(H?SET|DEL|HDEL|ZADD|ZREM|XADD|HINCRBY|UNLINK|SADD|SREM)'", text)


def test_what_a_part_defines_is_used() -> None:
    """luacheck looks at one file at a time."""
    code = re.sub(r"--.*", "", "".join(path.read_text() for path in [*SCRIPTS, *PARTS]))
    uses = Counter(re.findall(r"\w+", code))
    defined = {
        name
        for path in PARTS
        for name in re.findall(r"^local function (\w+)", path.read_text(), re.MULTILINE)
    }

    assert [] == sorted(name for name in defined if uses[name] < 2)


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
