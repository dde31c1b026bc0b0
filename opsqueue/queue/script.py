"""The only module that talks Redis commands of the state machine: it loads and runs `lua/`.

A script's header names its arguments; callers give them by these names, so that text and call can't
drift apart. EVALSHA with a reload on NOSCRIPT: a sha is its text, so versions coexist during a
rolling deploy.
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
from opsqueue.queue.cluster import Client, reason_of, run_on, run_on_all

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
"""What a server says of where in a script, which helps nobody when it refuses all of them."""
_ENTRY_ID: Final = re.compile(r"[0-9]{1,19}-[0-9]{1,19}")
_REFUSAL: Final = re.compile(r"(NOREPLICAS|MISCONF|MASTERDOWN|ACL failure|NOPERM)\b")
"""The server's state or its operator refuses a command, in a script as anywhere: no defect."""


@dataclass(frozen=True, slots=True)
class Script:
    """One file of `lua/`, with what every script needs in front, and what it asks for."""

    name: str
    text: str
    sha: str
    arguments: tuple[str, ...]
    has_rest: bool
    parts: tuple[tuple[str, int], ...]
    """Files in their order, each with its number of lines."""

    def argv(self, arguments: dict[str, Argument], rest: Sequence[Argument]) -> list[Argument]:
        """Put the arguments into the order of the header; the error says what it takes."""
        if arguments.keys() != set(self.arguments) or (rest and not self.has_rest):
            wanted, given = set(self.arguments), arguments.keys()
            message = (
                f"{self.name}.lua takes {sorted(wanted)}, got {sorted(given)} and {len(rest)} more"
            )
            raise OpsqueueInternalError(message)
        argv = [*(arguments[name] for name in self.arguments), *rest]
        for value in argv:
            if not _can_be_sent(value):
                message = f"{self.name}: {shown(value)} is no text, bytes or integer of 64 bits"
                raise InvalidArgumentError(message)
        return argv


def _can_be_sent(value: object) -> bool:
    # redis-py would send floats and larger numbers, too; a command in the middle of a script would
    # refuse them.
    if isinstance(value, bytes) or is_text(value):
        return True
    return is_whole(value) and value in INT64


@cache
def load_script(name: str) -> Script:
    """Read a script from the package, with the parts that its header names in front.

    A server makes each function anew at every call: a part has only what most scripts with it use.

    Raises:
        OpsqueueInternalError: the header does not fit the text.
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
    """Add a file behind the parts that it names, each once."""
    text = _read(name)
    for line in _WITH.findall(text):
        for part in line.split(", "):
            if part not in parts:
                _add_parts(parts, part)
    parts[name] = text


def _check_arguments(name: str, parts: dict[str, str], declared: list[str]) -> None:
    """Raise unless a script, and it alone, uses the arguments that its header declares."""
    used = {part: _USE.findall(_HEADER.sub("", source)) for part, source in parts.items()}
    numbers = {int(number) for number in used[name] if number} | {1}  # now: the prelude's
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
    """Runs the scripts of one queue, in one of its partitions.

    Args:
        client: a client made by `connection.connect`, or a fakeredis one with protocol=2.
        queue: its name.
        partition: which of its slots.
        clock: milliseconds; only tests give one. None: the server's own clock, the only one.
    """

    def __init__(
        self,
        client: Client,
        queue: str,
        *,
        partition: int = 0,
        clock: Callable[[], int] | None = None,
    ) -> None:
        """Load nothing yet: a script is loaded when the server says that it does not know it."""
        self._client = client
        self._clock = clock
        self._queue = queue
        self.base = base_key(queue, partition)

    def call(self, name: str, *, rest: Sequence[Argument] = (), **arguments: Argument) -> list[Any]:
        """Run a script: wholly, or not at all.

        Raises:
            FormatTooNewError: the queue's format is newer than this version; nothing was changed.
            RedisUnavailableError: no answer; whether it ran is not known.
            ScriptError: it ran into a defect; says file and line.
        """
        script = load_script(name)
        arguments["now"] = self._clock() if self._clock else ""
        argv = script.argv(arguments, rest)
        with translated_errors(script):
            return self._checked(script, self._run(partial(_evaluate, script, self.base, argv)))

    def call_followed(
        self,
        name: str,
        followers: Sequence[Sequence[Argument]],
        *,
        rest: Sequence[Argument] = (),
        **arguments: Argument,
    ) -> tuple[list[Any], list[Any]]:
        """Run a script, and behind it commands on the same connection, in one round trip.

        Returns its answer and theirs, as the server sent them; an error of one of them stands in
        the place of its answer.

        Raises:
            as `call`; then what came behind it counts for nothing either.
        """
        script = load_script(name)
        argv = script.argv({**arguments, "now": self._clock() if self._clock else ""}, rest)

        def send(server: redis.Redis) -> tuple[list[Any], list[Any]]:
            for command in (("EVALSHA", script.sha), ("EVAL", script.text)):
                # Not `call_many`, which sends a text that the server lacked behind the others.
                pipeline: Any = server.pipeline(transaction=False)
                # redis-py would take longer to read an INFO than the server for all of this.
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
            message = f"{name}.lua: the server asks for the text that it was sent"
            raise OpsqueueInternalError(message)

        with translated_errors(script):
            return self._run(send)

    def call_many(
        self, calls: Sequence[tuple[str, Mapping[str, Argument], Sequence[Argument]]]
    ) -> list[list[Any] | OpsqueueError]:
        """Run scripts, (name, arguments, rest) each, in one round trip.

        Each is atomic, all together are not: an error stands in the place of its answer, and one
        that the server had to be sent anew runs after the others.
        """
        scripts = [load_script(name) for name, _, _ in calls]
        now = self._clock() if self._clock else ""
        argvs = [
            script.argv({**arguments, "now": now}, rest)
            for script, (_, arguments, rest) in zip(scripts, calls, strict=True)
        ]

        def send(server: redis.Redis) -> list[Any]:
            pipeline = server.pipeline(transaction=False)
            for script, argv in zip(scripts, argvs, strict=True):
                pipeline.evalsha(script.sha, 1, self.base, *argv)
            return pipeline.execute(raise_on_error=False)

        try:
            with translated_errors(None):
                answers = self._run(send)
        except RedisUnavailableError as exc:
            return [exc] * len(calls)
        return [
            self._settled(script, argv, answer)
            for script, argv, answer in zip(scripts, argvs, answers, strict=True)
        ]

    def _settled(
        self,
        script: Script,
        argv: list[Argument],
        answer: Any,  # noqa: ANN401 what Redis says
    ) -> list[Any] | OpsqueueError:
        """Repeat a call that met NOSCRIPT or MOVED, which did nothing; translate an error."""
        first: list[Any] = [answer]

        def answered(server: redis.Redis) -> Any:  # noqa: ANN401 what Redis says
            # The second time, after MOVED, it is run alone.
            match first.pop() if first else NoScriptError():
                case NoScriptError():
                    return server.eval(script.text, 1, self.base, *argv)
                case Exception() as exc:
                    raise exc
                case answer:
                    return answer

        try:
            with translated_errors(script):
                return self._checked(script, self._run(answered))
        except OpsqueueError as exc:
            return exc

    def _checked(self, script: Script, answer: object) -> list[Any]:
        """Return a script's answer, unless it is the prelude's: that of a format too new for it."""
        match answer:
            case [b"format", int(found), int(readable)]:
                raise FormatTooNewError(self._queue, found, readable)
            case list():
                return answer
        message = f"{script.name}.lua answered {answer!r}, not a list"
        raise OpsqueueInternalError(message)

    def read_after(
        self, stream: str, last_id: str, *, block_ms: int, limit: int = 100
    ) -> list[Any]:
        """Wait until a stream of the queue has entries after `last_id`; [] when it stays silent.

        Args:
            stream: "wake", "events" or a submission's "sub:ID:news".
            last_id: of the last entry seen, or "0-0".
            block_ms: at least 1; below the connection's timeout.
            limit: entries at most.
        """
        if not is_text(last_id) or not _ENTRY_ID.fullmatch(last_id):
            message = f"{shown(last_id)} is no id of a stream's entry, such as 1732390000000-0"
            raise InvalidArgumentError(message)
        with translated_errors(None):
            answer: Any = self._run(
                lambda server: server.xread(
                    {self.base + stream: last_id}, count=limit, block=max(1, block_ms)
                )
            )
        return answer[0][1] if answer else []

    def last_id(self, stream: str) -> str:
        """Give the id of a stream's last entry, to read after it; "0-0" when it has none."""
        with translated_errors(None):
            entries: Any = self._run(lambda server: server.xrevrange(self.base + stream, count=1))
        return entries[0][0].decode() if entries else "0-0"

    def _run(self, command: Callable[[redis.Redis], _Answer]) -> _Answer:
        return run_on(self._client, self.base, command)


def _evaluate(script: Script, base: str, argv: list[Argument], server: redis.Redis) -> object:
    try:
        return server.evalsha(script.sha, 1, base, *argv)
    except NoScriptError:
        return server.eval(script.text, 1, base, *argv)


def ping(client: Client) -> None:
    """Find out whether Redis answers; of a cluster, whether all its masters do.

    Raises:
        RedisUnavailableError.
    """
    with translated_errors(None):
        run_on_all(client, lambda server: server.ping())


def register_queue(client: Client, queue: str) -> None:
    """Remember the queue's name, for lists of all queues."""
    with translated_errors(None):
        run_on(client, QUEUES_KEY, lambda server: server.sadd(QUEUES_KEY, queue))


def unregister_queue(client: Client, queue: str) -> None:
    """Forget the queue's name; whoever uses it registers it again."""
    with translated_errors(None):
        run_on(client, QUEUES_KEY, lambda server: server.srem(QUEUES_KEY, queue))


def known_store_id(client: Client, url: str) -> str:
    """Return the id that the store of a URL had when it was first used, "" for a new one."""
    with translated_errors(None):
        found: Any = run_on(client, STORES_KEY, lambda server: server.hget(STORES_KEY, url))
    return found.decode() if found else ""


def remember_store_id(client: Client, url: str, store_id: str) -> str:
    """Remember a store's id unless one is known; return the one that holds."""
    with translated_errors(None):
        try:
            run_on(client, STORES_KEY, lambda server: server.hsetnx(STORES_KEY, url, store_id))
        except redis.exceptions.ReadOnlyError:
            return store_id  # a replica: programs on its primary remember it
    return known_store_id(client, url)


def queue_names(client: Client) -> list[str]:
    """Give the names of all queues, sorted."""
    with translated_errors(None):
        names: Any = run_on(client, QUEUES_KEY, lambda server: server.smembers(QUEUES_KEY))
    return sorted(name.decode() for name in names)


def each_readable(
    names: Iterable[str], ask: Callable[[str], _Answer]
) -> Iterator[tuple[str, _Answer]]:
    """Yield each queue's name and answer, without those whose format is newer than this version."""
    for name in names:
        try:
            yield name, ask(name)
        except FormatTooNewError as exc:
            logger.debug("left out: %s", exc)


@contextmanager
def translated_errors(script: Script | None) -> Iterator[None]:
    """Turn redis-py's errors into ours, here and nowhere else."""
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
    """Give file and line in place of the line in all parts together."""

    def replace(match: re.Match[str]) -> str:
        line = int(match[1])
        for part, lines in script.parts:
            if line <= lines:
                return f"lua/{part}.lua:{line}"
            line -= lines
        return match[0]

    return f"{script.name}: {_LUA_LINE.sub(replace, text)}"
