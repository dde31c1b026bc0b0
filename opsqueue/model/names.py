"""Names of queues, workers and keys. Only the scripts know what is below a queue's base key."""

from __future__ import annotations

import json
import re
from typing import Final
from urllib.parse import quote, unquote

from opsqueue.model.checks import is_text, printable_json, shown
from opsqueue.model.errors import InvalidArgumentError

_OWN_DIGITS: Final = re.compile(r"[0-9a-f]{32}")
_QUEUE_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")
_PARTITION: Final = re.compile(r"[0-9]{2}")
_DOTS: Final = (".", "..")
"""Names that clients and proxies remove from a path."""
_WORKER: Final = re.compile(r"[\x21-\x7e]{1,200}")
_PLAIN_META_KEY: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")
MAX_META_KEY_CHARACTERS: Final = 255
"""The longest key of strategic metadata."""

QUEUES_KEY: Final = "oq:queues"
"""A set of the names of all queues that ever had a submission or a worker."""
UPKEEP: Final = "/upkeep"
"""Stands for a queue in the keys of the sweepers' index; no queue's name begins with a slash."""
STORES_KEY: Final = "oq:stores"
"""A hash: a store's URL, without options -> the id in its marker."""


def check_queue_name(name: str) -> str:
    """Return the name, or raise InvalidArgumentError with the rule for names."""
    if not isinstance(name, str) or not _QUEUE_NAME.fullmatch(name):
        message = (
            f"queue name {name!r}: at most 100 letters, digits and _.- beginning with a letter, "
            "a digit or _"
        )
        raise InvalidArgumentError(message)
    return name


def checked_worker(worker: str) -> str:
    """Return the name, or raise InvalidArgumentError with the rule for names."""
    if not isinstance(worker, str) or not _WORKER.fullmatch(worker):
        message = (
            f"worker name {shown(worker)}: at most 200 printable ASCII characters without spaces"
        )
        raise InvalidArgumentError(message)
    return worker


def checked_worker_in_path(worker: str) -> str:
    """Return the name, or raise InvalidArgumentError if it can't be used in a path."""
    if "/" in checked_worker(worker) or worker in _DOTS:
        message = f"worker name {shown(worker)}: over HTTP it can't have a slash, or be dots alone"
        raise InvalidArgumentError(message)
    return worker


def checked_meta_key(key: str) -> str:
    """Return a key of strategic metadata, or raise InvalidArgumentError with its rule."""
    if not isinstance(key, str) or not 1 <= len(key) <= MAX_META_KEY_CHARACTERS:
        message = (
            f"strategic metadata key {shown(key)}: give a text of 1 to {MAX_META_KEY_CHARACTERS} "
            "characters"
        )
        raise InvalidArgumentError(message)
    if not is_text(key):
        message = (
            f"strategic metadata key {shown(key)} has a lone surrogate, which is not a "
            "character: give a text that UTF-8 can encode"
        )
        raise InvalidArgumentError(message)
    return key


def stored_meta_key(key: str) -> str:
    """Return a key as the scripts know it: percent-encoded, so that they can join it with values.

    Keys of letters, digits and `_.-`, the only ones that earlier versions had, stay as they are.
    """
    return quote(key, safe="")


def read_meta_key(stored: str) -> str:
    """Return the key that `stored_meta_key` encoded."""
    return unquote(stored)


def meta_key_text(key: str) -> str:
    """Return a key's text form: a JSON string in double quotes, unless the key is plain."""
    if _PLAIN_META_KEY.fullmatch(key):
        return key
    return printable_json(json.dumps(key, ensure_ascii=False))


def parse_meta_key(text: str) -> str:
    """Parse a key's text form: a JSON string if it begins with a double quote, else the key itself.

    Raises:
        InvalidArgumentError: it can't be a key, or it is not a valid JSON string.
    """
    if not text.startswith('"'):
        return checked_meta_key(text)
    try:
        return checked_meta_key(json.loads(text, strict=False))
    except ValueError as exc:
        message = (
            f"strategic metadata key {shown(text)}: a text with a double quote at its start is "
            f"read as a JSON string ({exc})"
        )
        raise InvalidArgumentError(message) from exc


def is_own_prefix(prefix: str, queue: str) -> bool:
    """Return whether a prefix of objects has the form that a queue's inserts take.

    `_prelude.lua` checks the same form.
    """
    return prefix.startswith(f"{queue}/") and bool(
        _OWN_DIGITS.fullmatch(prefix, len(queue) + 1)  # \d and isdigit know other digits, too
    )


def check_own_prefix(prefix: str, queue: str) -> str:
    """Return the prefix, or raise InvalidArgumentError unless it has the form of this queue's.

    Otherwise anybody who may insert here could read, replace or delete objects of another queue, or
    objects above or below another submission's prefix.
    """
    if not is_own_prefix(prefix, queue):
        message = (
            f"prefix {shown(prefix)} is not one of queue {queue}: upload below {queue}/ and 32 "
            "hexadecimal digits (0-9, a-f) that no other submission has; `openssl rand -hex 16` "
            "prints such digits"
        )
        raise InvalidArgumentError(message)
    return prefix


def base_key(queue: str, partition: int = 0, tag: str = "") -> str:
    """Return the common beginning of all keys of a queue's partition.

    The braces make a cluster keep the keys in one slot. A queue's name can't contain the slash.

    Args:
        queue: the queue's name.
        partition: the number of the partition.
        tag: the one that was chosen for the partition (`spread.choose_tags`); "": none was.
    """
    return f"oq:{{{queue}/{tag}}}:" if tag else f"oq:{{{label(queue, partition)}}}:"


def label(queue: str, partition: int) -> str:
    """Return a partition's name: the queue for the first one, others like `emails/03`."""
    return queue if partition == 0 else f"{queue}/{default_tag(partition)}"


def default_tag(partition: int) -> str:
    """Return the tag of a partition, other than the first, for which none was chosen."""
    return f"{partition:02}"


def parse_label(text: str) -> tuple[str, int]:
    """Parse a partition's name into those of its queue and its number.

    Raises:
        InvalidArgumentError: it is not the name of a partition.
    """
    queue, slash, number = text.partition("/")
    if slash and not _PARTITION.fullmatch(number):
        message = f"{shown(text)} is not the name of a partition, such as emails/03"
        raise InvalidArgumentError(message)
    return check_queue_name(queue), int(number or 0)
