"""The parts that a forked child creates anew; tests/system tests whole programs."""

from __future__ import annotations

import asyncio
import gc
import os
import sys
import threading
import weakref
from pathlib import Path
from typing import Any

import pytest

from opsqueue.exceptions import IncorrectUsageError, OtherProcessError
from opsqueue.handlers.invoke import Invoker
from opsqueue.http.bodies import VersionBody
from opsqueue.http.json_form import decoder_of
from opsqueue.model.process import EndsForkedChildren, Origin, PerProcess
from opsqueue.testing.embedded import EmbeddedServer
from opsqueue.tracing.export import _Exporter
from tests.forks import error_in_child, in_child
from tests.opsqueue.handlers.test_invoke import CHUNK, handler_of


class Made:
    """Something that knows who made it, and whether it was closed or collected."""

    def __init__(self, ended: list[str]) -> None:
        self.pid = os.getpid()
        weakref.finalize(self, ended.append, "collected")


def test_each_process_makes_its_own_value_once() -> None:
    ended: list[str] = []
    value = PerProcess(lambda: Made(ended))
    mine = value.get()

    def child() -> tuple[bool, bool, bool]:
        made = value.get()
        return made.pid == os.getpid(), made is value.get(), made is mine

    assert in_child(child) == (True, True, False)
    assert value.get() is mine


def test_a_child_neither_closes_nor_collects_what_it_inherits() -> None:
    """Finalizers might wait for locks, or change what the parent uses."""
    ended: list[str] = []
    values = [PerProcess(lambda: Made(ended))]
    values[0].get()

    def child() -> list[str]:
        values[0].close(lambda _: ended.append("closed"))
        values.clear()
        gc.collect()
        return ended

    assert in_child(child) == []


def test_a_value_that_a_child_closed_before_its_use_says_so() -> None:
    value = PerProcess(object)
    value.get()

    def child() -> None:
        value.close(lambda _: None)
        value.get()

    assert error_in_child(child).startswith(IncorrectUsageError.__name__)


def test_a_value_is_made_by_one_thread_while_others_wait() -> None:
    """Also the first in a child."""
    made: list[int] = []
    gate = threading.Barrier(4)

    def make() -> object:
        made.append(1)
        return object()

    value = PerProcess(make)

    def child() -> int:
        def use() -> None:
            gate.wait(10)
            value.get()

        threads = [threading.Thread(target=use) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return len(made)

    assert in_child(child) == 1


def test_a_child_does_not_wait_for_a_value_that_a_thread_of_its_parent_makes() -> None:
    """The lock is held at the fork."""
    is_making, may_go_on = threading.Event(), threading.Event()

    def make() -> int:
        if threading.current_thread() is not threading.main_thread():
            is_making.set()
            assert may_go_on.wait(30)
        return os.getpid()

    value = PerProcess(make)
    thread = threading.Thread(target=value.get)
    thread.start()
    assert is_making.wait(10)

    try:
        assert in_child(lambda: value.get() == os.getpid(), within_s=10)
    finally:
        may_go_on.set()
        thread.join()


def test_the_processes_are_named_where_one_uses_what_is_anothers() -> None:
    origin = Origin()
    origin.check("a thing", "make another")

    said = error_in_child(lambda: origin.check("a thing", "make another"))

    assert said.startswith(
        f"{OtherProcessError.__name__}: a thing belongs to process {os.getpid()}"
    )
    assert "make another" in said


@pytest.mark.parametrize(
    ("leave", "status"),
    [(lambda: None, 1), (lambda: sys.exit(3), 3), (sys.exit, 0), (lambda: 1 / 0, 1)],
)
def test_a_forked_child_does_not_leave_the_block(leave: Any, status: int) -> None:
    """However it tries; the parent does."""
    with EndsForkedChildren():
        pid = os.fork()
        if pid == 0:
            sys.stderr = open(os.devnull, "w")  # noqa: PTH123, SIM115 the child's end
            leave()

    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == status


def test_an_embedded_server_outlives_a_child_that_leaves_with(tmp_path: Path) -> None:
    """Its `stop` and `kill` end nothing there."""
    with EmbeddedServer(tmp_path, is_durable=False) as server:

        def child() -> bool:
            server.kill()
            server.__exit__(None, None, None)
            return server.is_running

        assert not in_child(child)
        assert server.is_running


def test_a_decoder_is_made_in_a_child_though_a_thread_made_one_at_the_fork() -> None:
    """Its lock is one for all."""
    from opsqueue.http import json_form  # noqa: PLC0415 its private lock

    with json_form._ONE_AT_A_TIME.get():
        assert in_child(
            lambda: decoder_of(VersionBody).decode(b'{"name":"a","version":"b"}').name == "a",
            within_s=10,
        )


def test_a_kept_event_loop_is_not_shared_with_a_child() -> None:
    """A child that used or collected it would make the parent's deaf to its threads."""

    async def handle(operation: int) -> int:
        return await asyncio.to_thread(lambda: operation + 1)

    handler = handler_of(handle)
    invokers = [Invoker()]

    def call() -> list[object]:
        return list(invokers[0].call(handler, [1, 2], CHUNK))

    def child() -> list[object]:
        results = call()
        invokers.clear()
        gc.collect()
        return results

    assert call() == [2, 3]
    assert in_child(child) == [2, 3]
    assert call() == [2, 3]
    invokers[0].close()


def test_a_span_exporter_has_connections_of_its_own_in_a_child(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And a child's end does not shut its parent's down."""
    shut_down: list[int] = []

    class Exporter:
        def __init__(self) -> None:
            self.pid = os.getpid()

        def export(self, _spans: object) -> int:
            return self.pid

        def shutdown(self) -> None:
            shut_down.append(self.pid)

    monkeypatch.setattr("opsqueue.tracing.export._exporter", lambda _name: Exporter())
    exporter = _Exporter("any")

    def end() -> list[int]:
        exporter.shutdown()
        return shut_down

    def exported_by() -> object:
        return exporter.export([])

    assert exported_by() == os.getpid()
    assert in_child(lambda: exported_by() == os.getpid())
    assert in_child(end) == []
