"""The Redis users that `opsqueue acl` prints: the keys and commands that a program needs.

The commands are read from the scripts themselves, so a line fits the version that printed it. Redis
checks the commands and keys of a script like all others, so a script permits a user no more than
the line does.
"""

from __future__ import annotations

import re
from typing import Final, Literal

from opsqueue.exceptions import InvalidArgumentError
from opsqueue.queue.due import SCRIPTS_OF_INDEX
from opsqueue.queue.durability import Durability
from opsqueue.queue.script import load_script
from opsqueue.queue.state import READINGS, TRANSITIONS

Role = Literal["api", "worker"]

PATTERN: Final = "oq:*"
"""Matches all keys and channels of all queues."""

FSYNC_EXPOSES: Final = (
    "+config|get lets this user read every setting of the server, including its passwords "
    "(requirepass, masterauth): use it only for APIs with --durability fsync"
)

_CALL: Final = re.compile(r"redis\.p?call\(\s*'([A-Z]+)'(?:, '([A-Z]+)')?")
_WITH_SUBCOMMANDS: Final = frozenset({"XGROUP", "XINFO"})
# Commands that scripts hold in a variable.
_CHOSEN: Final = re.compile(
    "'(ZRANGE|ZREVRANGE|ZRANGEBYLEX|ZREVRANGEBYLEX|ZCARD|XLEN|SCARD|STRLEN|LLEN|HLEN)'"
)
# Commands that clients send apart from scripts. SELECT is for a URL with a database; the last two
# are for redis-py's client of a cluster.
_BESIDE: Final = ("PING", "SELECT", "EVALSHA", "EVAL", "XREAD", "SADD", "HGET", "HSETNX",
                  "SSUBSCRIBE", "SUNSUBSCRIBE", "INFO", "SMEMBERS",
                  "SREM", "COMMAND", "CLUSTER|SLOTS")  # fmt: skip
_BESIDE_OF_APIS: Final = ("XREVRANGE", "WAIT")
# The category is for WAITAOF, which servers before 7.2 don't know: they would not start with a line
# that names it. Its other commands wait for keys, and a user only has access to our keys.
_OF_FSYNC: Final = ("CONFIG|GET", "@BLOCKING")
SCRIPTS_OF_WORKERS: Final = (
    "reserve_chunks", "complete_chunks", "fail_chunk", "release_chunks", "heartbeat",
    "retire_worker", "reclaim_dead", "reclaim_expired", "repair", "forget_submissions",
    "delete_inputs", "note_begun", "wake_next", "get_partitions", "list_workers", "get_workers",
    "get_reservations", "next_due", "delete_queue", *SCRIPTS_OF_INDEX,
)  # fmt: skip


def commands_of(role: Role, durability: Durability = Durability.NONE) -> list[str]:
    """Return the commands and categories that a program and its scripts need, sorted."""
    everything = (*(transition.name for transition in TRANSITIONS), *READINGS, *SCRIPTS_OF_INDEX)
    scripts = SCRIPTS_OF_WORKERS if role == "worker" else everything
    beside = _BESIDE if role == "worker" else (*_BESIDE, *_BESIDE_OF_APIS)
    if durability is Durability.FSYNC:
        beside = (*beside, *_OF_FSYNC)
    texts = [load_script(name).text for name in scripts]
    called = {
        f"{command}|{subcommand}" if command in _WITH_SUBCOMMANDS else command
        for text in texts
        for command, subcommand in _CALL.findall(text)
    }
    chosen = {command for text in texts for command in _CHOSEN.findall(text)}
    return sorted({*called, *chosen, *beside})


def user_line(
    role: Role, *, name: str, password: str, durability: Durability = Durability.NONE
) -> str:
    """Return the line of an ACL file for the user; without `user` it can follow ACL SETUSER.

    Args:
        role: the programs that will log in as this user.
        name: the user's name.
        password: the user's password.
        durability: the API's setting; only FSYNC needs more rights, see FSYNC_EXPOSES.

    Raises:
        InvalidArgumentError: the server would read another line, or a worker's user is given a
            durability, which only an API needs.
    """
    for what, text in (("name", name), ("password", password)):
        # Words of the line end with a space, and the text after it would be read as rules.
        if not text or not text.isprintable() or " " in text:
            message = f"the user's {what} must not be empty, and must not contain a space"
            raise InvalidArgumentError(message)
    if role == "worker" and durability is not Durability.NONE:
        message = (
            "only inserts wait for a durability, and workers make none: give it for the user of "
            "the API (opsqueue acl api)"
        )
        raise InvalidArgumentError(message)
    allowed = " ".join(f"+{command.lower()}" for command in commands_of(role, durability))
    return f"user {name} reset on >{password} ~{PATTERN} &{PATTERN} {allowed}"
