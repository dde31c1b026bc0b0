"""The only module that sends the state machine's commands to Redis: it loads and runs `lua/`.

A script's header names its arguments, and callers pass them by these names, so text and call always
match. EVALSHA with a reload on NOSCRIPT: the sha identifies the text, so several versions can run
during a rolling deployment.
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from importlib.resources import files
from typing import Any, Final, TypeVar

import redis
from redis.exceptions import NoScriptError, RedisClusterException

from opsqueue.exceptions import (
    FormatTooNewError,
    InvalidArgumentError,
    OpsqueueError,
    OpsqueueInternalError,
    RedisUnavailableError,
    ScriptError,
)
from opsqueue.model.checks import INT64, is_text, is_whole, shown
from opsqueue.model.names import QUEUES_KEY, STORES_KEY, base_key
from opsqueue.queue.cluster import Client, masters_by_slot, reason_of, run_on, run_on_all

logger = logging.getLogger("opsqueue.queue")

Argument = str | bytes | int
_Answer = TypeVar("_Answer")
_LUA: Final = files("opsqueue.queue") / "lua"
_ARGV: Final = re.compile(r"^-- ARGV\[(\d+)(\.\.\.)?\]\s+(\w+)", re.MULTILINE)
_HEADER: Final = re.compile(r"^--.*$", re.MULTILINE)
_USE: Final = re.compile(r"\bARGV\b(?:\[(\d+)\])?")
_WITH: Final = re.compile(r"^-- With (.+)\.$", re.MULTILINE)
_LUA_LINE: Final = re.compile(r"user_script:(\d+)")
_IN_SCRIPT: Final = re.compile(r"[.,]? script: ([0-9a-f]{40}, )?on @?user_script:\d+\.?$")
"""A server's position in a script, which does not help when it refuses all scripts."""
_ENTRY_ID: Final = re.compile(r"[0-9]{1,19}-[0-9]{1,19}")
_REFUSAL: Final = re.compile(r"(NOREPLICAS|MISCONF|MASTERDOWN|ACL failure|NOPERM)\b")
"""The server's state or its operator refuses a command, inside or outside scripts: no defect."""


@dataclass(frozen=True, slots=True)
class Script:
    """One file of `lua/` with the parts in front of it, and its declared arguments."""

    name: str
    text: str
    sha: str
    arguments: tuple[str, ...]
    has_rest: bool
    parts: tuple[tuple[str, int], ...]
    """Files in order, each with its number of lines."""

    def argv(self, arguments: dict[str, Argument], rest: Sequence[Argument]) -> list[Argument]:
        """Return the arguments in the order of the header; the error names those it takes."""
        if arguments.keys() != set(self.arguments) or (rest and not self.has_rest):
            wanted, given = set(self.arguments), arguments.keys()
            message = (
                f"{self.name}.lua takes {sorted(wanted)}, got {sorted(given)} and {len(rest)} more"
            )
            raise OpsqueueInternalError(message)
        argv = [*(arguments[name] for name in self.arguments), *rest]
        for value in argv:
            if not _can_be_sent(value):
                message = f"{self.name}: {shown(value)} is not text, bytes or a 64-bit integer"
                raise InvalidArgumentError(message)
        return argv


def _can_be_sent(value: object) -> bool:
    # redis-py would also send floats and larger numbers, which a command in the middle of a script
    # would refuse.
    if isinstance(value, bytes) or is_text(value):
        return True
    return is_whole(value) and value in INT64


@cache
def load_script(name: str) -> Script:
    """Read a script from the package, preceded by the parts that its header names.

    A server compiles each function again at every call, so a part only has functions that most of
    its scripts use.

    Raises:
        OpsqueueInternalError: the header does not match the text.
    """
    parts = {"_prelude": _read("_prelude")}
    _add_parts(parts, name)
    text = "".join(parts.values())
    names = _ARGV.findall(parts[name])
    _check_arguments(name, parts, [f"{number}{dots}" for number, dots, _ in names])
    return Script(
        name=name,
        text=text,
        sha=hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest(),
        arguments=tuple(name for _, dots, name in names if not dots),
        has_rest=any(dots for _, dots, _ in names),
        parts=tuple((part, source.count("\n")) for part, source in parts.items()),
    )


def _read(name: str) -> str:
    return (_LUA / f"{name}.lua").read_text(encoding="utf-8")


def _add_parts(parts: dict[str, str], name: str) -> None:
    """Add a file after the parts that it names, each once."""
    text = _read(name)
    for line in _WITH.findall(text):
        for part in line.split(", "):
            if part not in parts:
                _add_parts(parts, part)
    parts[name] = text


def _check_arguments(name: str, parts: dict[str, str], declared: list[str]) -> None:
    """Raise an error unless only the script itself uses exactly the arguments that it declares."""
    used = {part: _USE.findall(_HEADER.sub("", source)) for part, source in parts.items()}
    numbers = {int(number) for number in used[name] if number} | {1}  # `now` is the prelude's
    last = len(declared)
    if declared[-1:] == [f"{last}..."] and "" in used[name]:
        numbers.add(last)
    in_order = [number.removesuffix("...") for number in declared]
    if (
        in_order != [str(number) for number in range(1, last + 1)]
        or numbers != set(range(1, last + 1))
        or any(used[part] for part in parts if part not in ("_prelude", name))
    ):
        message = f"{name}.lua declares ARGV {declared}; it and its parts use {used}"
        raise OpsqueueInternalError(message)


class Scripts:
    """Runs the scripts of one queue in one of its partitions.

    Args:
        client: a client made by `connection.connect`, or a fakeredis one with protocol=2.
        queue: the queue's name.
        partition: the number of the partition.
        tag: see `base_key`.
        clock: returns milliseconds; only for tests. None: the server's own clock.
    """

    def __init__(
        self,
        client: Client,
        queue: str,
        *,
        partition: int = 0,
        tag: str = "",
        clock: Callable[[], int] | None = None,
    ) -> None:
        """Load nothing yet: a script is loaded when the server does not know it."""
        self._client = client
        self._clock = clock
        self._queue = queue
        self.base = base_key(queue, partition, tag)

    def call(self, name: str, *, rest: Sequence[Argument] = (), **arguments: Argument) -> list[Any]:
        """Run a script, completely or not at all.

        Raises:
            FormatTooNewError: the queue's format is newer than this version; nothing was changed.
            RedisUnavailableError: no answer; whether it ran is not known.
            ScriptError: the script has a defect; the message has file and line.
        """
        script = load_script(name)
        arguments["now"] = self.now()
        argv = script.argv(arguments, rest)
        with translated_errors(script):
            return self._checked(script, self.run(partial(_evaluate, script, self.base, argv)))

    def call_followed(
        self,
        name: str,
        followers: Sequence[Sequence[Argument]],
        *,
        rest: Sequence[Argument] = (),
        **arguments: Argument,
    ) -> tuple[list[Any], list[Any]]:
        """Run a script and commands after it on the same connection, in one round trip.

        Returns the script's answer and theirs, as the server sent them; an error of a command is
        returned in place of its answer.

        Raises:
            OpsqueueError: see `call`; the answers to the commands are discarded then.
        """
        script = load_script(name)
        argv = script.argv({**arguments, "now": self.now()}, rest)

        def send(server: redis.Redis) -> tuple[list[Any], list[Any]]:
            for command in (("EVALSHA", script.sha), ("EVAL", script.text)):
                # Not `call_many`, which sends a script that the server lacked after the others.
                pipeline: Any = server.pipeline(transaction=False)
                # redis-py takes longer to parse an INFO than the server takes for all of this.
                pipeline.response_callbacks = {}
                pipeline.execute_command(*command, 1, self.base, *argv)
                for follower in followers:
                    pipeline.execute_command(*follower)
                match pipeline.execute(raise_on_error=False):
                    case [NoScriptError(), *_]:
                        continue
                    case [Exception() as exc, *_]:
                        raise exc
                    case [answer, *answers]:
                        return self._checked(script, answer), answers
            message = f"{name}.lua: the server does not know the script after it was sent"
            raise OpsqueueInternalError(message)

        with translated_errors(script):
            return self.run(send)

    def call_many(
        self, calls: Sequence[tuple[str, Mapping[str, Argument], Sequence[Argument]]]
    ) -> list[list[Any] | OpsqueueError]:
        """Run scripts, (name, arguments, rest) each; see `call_together`."""
        return call_together([(self, *call) for call in calls])

    def settled(
        self,
        script: Script,
        argv: list[Argument],
        answer: Any,  # noqa: ANN401 what Redis says
    ) -> list[Any] | OpsqueueError:
        """Repeat a call after NOSCRIPT or MOVED, which did nothing; translate other errors."""
        first: list[Any] = [answer]

        def answered(server: redis.Redis) -> Any:  # noqa: ANN401 what Redis says
            # The second time, after MOVED, the script is run alone.
            match first.pop() if first else NoScriptError():
                case NoScriptError():
                    return server.eval(script.text, 1, self.base, *argv)
                case Exception() as exc:
                    raise exc
                case answer:
                    return answer

        try:
            with translated_errors(script):
                return self._checked(script, self.run(answered))
        except OpsqueueError as exc:
            return exc

    def _checked(self, script: Script, answer: object) -> list[Any]:
        """Return a script's answer, or raise the prelude's error for a format that is too new."""
        match answer:
            case [b"format", int(found), int(readable)]:
                raise FormatTooNewError(self._queue, found, readable)
            case list():
                return answer
        message = f"{script.name}.lua answered {answer!r}, not a list"
        raise OpsqueueInternalError(message)

    def now(self) -> int | str:
        """Return the milliseconds of a test's clock; "" for the server's own."""
        return self._clock() if self._clock else ""

    def read_after(
        self, stream: str, last_id: str, *, block_ms: int, limit: int = 100
    ) -> list[Any]:
        """Wait until a stream of the queue has entries after `last_id`; [] if none came.

        Args:
            stream: "wake", "events" or a submission's "sub:ID:news".
            last_id: id of the last entry seen, or "0-0".
            block_ms: the longest wait; at least 1, and below the connection's timeout.
            limit: the largest number of entries.
        """
        if not is_text(last_id) or not _ENTRY_ID.fullmatch(last_id):
            message = f"{shown(last_id)} is not the id of a stream entry, such as 1732390000000-0"
            raise InvalidArgumentError(message)
        with translated_errors(None):
            answer: Any = self.run(
                lambda server: server.xread(
                    {self.base + stream: last_id}, count=limit, block=max(1, block_ms)
                )
            )
        return answer[0][1] if answer else []

    def last_id(self, stream: str) -> str:
        """Return the id of a stream's last entry, to read after it; "0-0" if it has none."""
        with translated_errors(None):
            entries: Any = self.run(lambda server: server.xrevrange(self.base + stream, count=1))
        return entries[0][0].decode() if entries else "0-0"

    def run(self, command: Callable[[redis.Redis], _Answer]) -> _Answer:
        """Run a command on the server that has the partition."""
        return run_on(self._client, self.base, command)


Call = tuple[Scripts, str, Mapping[str, Argument], Sequence[Argument]]
"""A partition, the name of a script, its arguments, and the rest of them."""


def call_together(calls: Sequence[Call]) -> list[list[Any] | OpsqueueError]:
    """Run scripts of partitions on the same server in one round trip.

    Each is atomic, but not all together. An error is returned in place of an answer. A script that
    the server did not know, and one whose partition is on another server, runs after the others.
    """
    if not calls:
        return []
    scripts = [load_script(name) for _, name, _, _ in calls]
    argvs = [
        script.argv({**arguments, "now": on.now()}, rest)
        for script, (on, _, arguments, rest) in zip(scripts, calls, strict=True)
    ]

    def send(server: redis.Redis) -> list[Any]:
        pipeline = server.pipeline(transaction=False)
        for script, argv, (on, *_) in zip(scripts, argvs, calls, strict=True):
            pipeline.evalsha(script.sha, 1, on.base, *argv)
        return pipeline.execute(raise_on_error=False)

    try:
        with translated_errors(None):
            answers = calls[0][0].run(send)
    except RedisUnavailableError as exc:
        return [exc] * len(calls)
    return [
        on.settled(script, argv, answer)
        for (on, *_), script, argv, answer in zip(calls, scripts, argvs, answers, strict=True)
    ]


def _evaluate(script: Script, base: str, argv: list[Argument], server: redis.Redis) -> object:
    try:
        return server.evalsha(script.sha, 1, base, *argv)
    except NoScriptError:
        return server.eval(script.text, 1, base, *argv)


def ping(client: Client) -> None:
    """Check that Redis answers; in a cluster, that all its masters do.

    Raises:
        RedisUnavailableError: no answer.
    """
    with translated_errors(None):
        run_on_all(client, lambda server: server.ping())


def register_queue(client: Client, queue: str) -> None:
    """Store the queue's name for lists of all queues."""
    with translated_errors(None):
        run_on(client, QUEUES_KEY, lambda server: server.sadd(QUEUES_KEY, queue))


def unregister_queue(client: Client, queue: str) -> None:
    """Remove the queue's name from lists; a program that uses the queue registers it again."""
    with translated_errors(None):
        run_on(client, QUEUES_KEY, lambda server: server.srem(QUEUES_KEY, queue))


def known_store_id(client: Client, url: str) -> str:
    """Return the id that the store of a URL had when it was first used, "" for a new one."""
    with translated_errors(None):
        found: Any = run_on(client, STORES_KEY, lambda server: server.hget(STORES_KEY, url))
    return found.decode() if found else ""


def remember_store_id(client: Client, url: str, store_id: str) -> str:
    """Store a store's id unless one is known; return the one that is valid."""
    with translated_errors(None):
        try:
            run_on(client, STORES_KEY, lambda server: server.hsetnx(STORES_KEY, url, store_id))
        except redis.exceptions.ReadOnlyError:
            return store_id  # a replica: programs on its primary store it
    return known_store_id(client, url)


def queue_names(client: Client) -> list[str]:
    """Return the names of all queues, sorted."""
    with translated_errors(None):
        names: Any = run_on(client, QUEUES_KEY, lambda server: server.smembers(QUEUES_KEY))
    return sorted(name.decode() for name in names)


def ask_slot_map(client: Client) -> Mapping[int, str]:
    """Return by slot the address of its master, asked now; {} on a single server.

    Raises:
        RedisUnavailableError: no answer.
    """
    with translated_errors(None):
        return masters_by_slot(client)


def each_readable(
    names: Iterable[str], ask: Callable[[str], _Answer]
) -> Iterator[tuple[str, _Answer]]:
    """Yield each queue's name and answer, skipping those whose format is too new."""
    for name in names:
        try:
            yield name, ask(name)
        except FormatTooNewError as exc:
            logger.debug("left out: %s", exc)


@contextmanager
def translated_errors(script: Script | None) -> Iterator[None]:
    """Translate redis-py's errors into ours, here and nowhere else."""
    try:
        yield
    except (redis.exceptions.OutOfMemoryError, redis.exceptions.ReadOnlyError) as exc:
        raise _refused(exc) from exc
    except redis.exceptions.AuthenticationError as exc:
        message = f"Redis refused the credentials ({exc}): put the right ones into its URL"
        raise RedisUnavailableError(message) from exc
    except redis.exceptions.ResponseError as exc:
        if script is not None and "user_script" in str(exc) and not _REFUSAL.match(str(exc)):
            raise ScriptError(_located(script, str(exc))) from exc
        raise _refused(exc) from exc
    except (redis.exceptions.RedisError, RedisClusterException, OSError) as exc:
        message = f"Redis does not answer: {reason_of(exc)}"
        raise RedisUnavailableError(message) from exc


def _refused(exc: redis.exceptions.ResponseError) -> RedisUnavailableError:
    text = _IN_SCRIPT.sub("", str(exc))
    if isinstance(exc, redis.exceptions.ReadOnlyError):
        text = f"{text.rstrip('.')}: give the URL of its primary, or of its Sentinels"
    return RedisUnavailableError(f"Redis refused: {text}")


def _located(script: Script, text: str) -> str:
    """Replace the line in the whole text by file and line."""

    def replace(match: re.Match[str]) -> str:
        line = int(match[1])
        for part, lines in script.parts:
            if line <= lines:
                return f"lua/{part}.lua:{line}"
            line -= lines
        return match[0]

    return f"{script.name}: {_LUA_LINE.sub(replace, text)}"
