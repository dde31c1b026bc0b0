"""What a Redis user must be allowed: the keys and commands of the API, and those of workers.

Read from the scripts themselves, so that a line printed by this version fits this version. Redis
checks the commands inside a script as it does others, so a user is no wider than its line.
"""

from __future__ import annotations

import re
from typing import Final, Literal

from opsqueue.script import load_script
from opsqueue.state import READINGS, TRANSITIONS

Role = Literal["api", "worker"]

PATTERN: Final = "oq:*"
"""All keys of all queues."""

_CALL: Final = re.compile(r"redis\.p?call\(\s*'([A-Z]+)'")
# Commands that scripts hold in a variable.
_CHOSEN: Final = ("ZRANGE", "ZREVRANGE", "ZRANGEBYLEX", "ZREVRANGEBYLEX", "ZCARD", "XLEN", "SCARD")
# What clients send beside scripts. COMMAND is redis-py's, for a cluster. The category is for WAIT
# and WAITAOF: a server before 7.2 would not start with a line that names the latter. Its others
# wait for keys, and our keys are all that a user has.
_BESIDE: Final = (
    "PING", "SELECT", "EVALSHA", "EVAL", "XREAD", "XREVRANGE", "SADD", "SMEMBERS",
    "@BLOCKING", "INFO", "CONFIG|GET", "COMMAND", "CLUSTER|SLOTS",
)  # fmt: skip
_OF_WORKERS: Final = (
    "reserve_chunks", "complete_chunks", "fail_chunk", "release_chunks", "heartbeat",
    "retire_worker", "reclaim_dead", "reclaim_expired", "repair", "forget_submissions",
    "delete_inputs", "get_partitions", "list_workers", "get_reservations",
)  # fmt: skip


def commands_of(role: Role) -> list[str]:
    """Give the commands, and a category of them, that a program and its scripts send, sorted."""
    everything = (*(transition.name for transition in TRANSITIONS), *READINGS)
    scripts = _OF_WORKERS if role == "worker" else everything
    # The case that has all that any has.
    texts = (load_script(f"{name} composed").text for name in scripts)
    of_scripts = {command for text in texts for command in _CALL.findall(text)}
    return sorted({*of_scripts, *_CHOSEN, *_BESIDE})


def user_line(role: Role, *, name: str, password: str) -> str:
    """Give the line of an ACL file that makes the user; without `user` it is ACL SETUSER's."""
    allowed = " ".join(f"+{command.lower()}" for command in commands_of(role))
    return f"user {name} reset on >{password} ~{PATTERN} {allowed}"
