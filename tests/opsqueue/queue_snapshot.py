"""A snapshot of all raw keys of a small queue, read in one round trip, for tests."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from typing import Any, Self

import redis

from opsqueue.model.names import base_key, read_meta_key, stored_meta_key
from opsqueue.model.submission import SubmissionId


@dataclass(frozen=True, slots=True, kw_only=True)
class SubmissionKeys:
    """What sub:ID and its satellites hold."""

    fields: dict[str, str]
    meta: dict[str, int]
    failure: dict[str, str]
    redo: frozenset[int]
    done: bytes
    errors: bytes
    inputs: dict[int, bytes]
    outputs: dict[int, bytes]

    def is_done(self, index: int) -> bool:
        return has_bit(self.done, index)

    def number(self, field: str) -> int:
        return int(self.fields[field])


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """What the other keys hold. `pending` None: there is no group."""

    submissions: dict[SubmissionId, SubmissionKeys]
    ready: list[str]
    delayed: dict[str, int]
    entries: dict[str, tuple[str, int]]
    pending: dict[str, str] | None
    workers: dict[str, int]
    dead_at: dict[str, int]
    begun: dict[str, set[str]]
    suspects: list[str]
    hosts: dict[str, str]
    is_isolating: bool
    stats: dict[str, int]
    by_state: dict[str, list[str]]
    in_hand: dict[str, dict[int, int]]
    is_repairing: bool
    is_paused: bool
    last_wake_id: str

    @classmethod
    def of(
        cls,
        client: redis.Redis,
        queue: str,
        *,
        ids: list[SubmissionId],
        meta_keys: tuple[str, ...],
        states: list[str],
    ) -> Self:
        base = base_key(queue)
        pipe = client.pipeline(transaction=False)
        for id_ in ids:
            key = f"{base}sub:{id_}"
            pipe.hgetall(key)
            pipe.hgetall(f"{key}:meta")
            pipe.hgetall(f"{key}:failure")
            pipe.zrange(f"{key}:redo", 0, -1, withscores=True)
            pipe.get(f"{key}:done")
            pipe.get(f"{key}:errors")
            pipe.hgetall(f"{key}:in")
            pipe.hgetall(f"{key}:out")
        for meta_key in meta_keys:
            pipe.hgetall(f"{base}inhand:{stored_meta_key(meta_key)}")
        for state in states:
            pipe.zrange(f"{base}submissions:{state}", 0, -1)
        signatures = [
            ",".join(names)
            for count in range(1, len(meta_keys) + 1)
            for names in combinations(sorted(map(stored_meta_key, meta_keys)), count)
        ]
        for signature in signatures:
            pipe.zrange(f"{base}ready:{signature}", 0, -1)
        pipe.zrange(f"{base}ready", 0, -1)
        pipe.zrange(f"{base}delayed", 0, -1, withscores=True)
        pipe.xrange(f"{base}reservations")
        pipe.xpending_range(f"{base}reservations", "workers", "-", "+", 10_000)
        pipe.zrange(f"{base}workers", 0, -1, withscores=True)
        pipe.zrange(f"{base}dead_at", 0, -1, withscores=True)
        pipe.hgetall(f"{base}stats")
        pipe.exists(f"{base}repair")
        pipe.exists(f"{base}paused")
        pipe.xrevrange(f"{base}wake", count=1)
        pipe.hgetall(f"{base}begun")
        pipe.zrange(f"{base}suspects", 0, -1)
        pipe.hgetall(f"{base}hosts")
        pipe.exists(f"{base}isolating")
        answers = iter(pipe.execute(raise_on_error=False))

        submissions = {}
        for id_ in ids:
            fields, meta, failure = (_texts(next(answers)) for _ in range(3))
            redo, done, errors = (next(answers) for _ in range(3))
            inputs, outputs = next(answers), next(answers)
            assert all(int(member) == score for member, score in redo)
            if fields:
                submissions[id_] = SubmissionKeys(
                    fields=fields,
                    meta={read_meta_key(key): int(value) for key, value in meta.items()},
                    failure=failure,
                    redo=frozenset(int(member) for member, _ in redo),
                    done=done or b"",
                    errors=errors or b"",
                    inputs={int(index): data for index, data in inputs.items()},
                    outputs={int(index): data for index, data in outputs.items()},
                )
            else:
                assert (meta, failure, redo, done, errors) == ({}, {}, [], None, None)
                assert (inputs, outputs) == ({}, {})
        in_hand = {
            meta_key: {int(value): int(count) for value, count in next(answers).items()}
            for meta_key in meta_keys
        }
        by_state = {state: [id_.decode() for id_ in next(answers)] for state in states}
        with_meta = [id_ for _ in signatures for id_ in next(answers)]
        ready, delayed, entries, pending, workers, dead_at, stats = (
            next(answers) for _ in range(7)
        )
        is_repairing, is_paused, wake = (next(answers) for _ in range(3))
        begun, suspects, hosts, is_isolating = (next(answers) for _ in range(4))
        return cls(
            submissions=submissions,
            ready=sorted(id_.decode() for id_ in [*ready, *with_meta]),
            delayed={member.decode(): int(at) for member, at in delayed},
            entries={
                token.decode(): (row[b"s"].decode(), int(row[b"i"])) for token, row in entries
            },
            pending=_pending(pending),
            workers={name.decode(): int(at) for name, at in workers},
            dead_at={name.decode(): int(at) for name, at in dead_at},
            begun={name: set(text.split()) for name, text in _texts(begun).items()},
            suspects=[member.decode() for member in suspects],
            hosts=_texts(hosts),
            is_isolating=bool(is_isolating),
            stats={name: int(number) for name, number in _texts(stats).items() if int(number)},
            by_state=by_state,
            in_hand=in_hand,
            is_repairing=bool(is_repairing),
            is_paused=bool(is_paused),
            last_wake_id=wake[0][0].decode() if wake else "0-0",
        )


def has_bit(bitmap: bytes, index: int) -> bool:
    byte = bitmap[index // 8] if index // 8 < len(bitmap) else 0
    return bool(byte >> (7 - index % 8) & 1)


def _texts(hash_: dict[bytes, bytes]) -> dict[str, str]:
    return {key.decode(): value.decode(errors="replace") for key, value in hash_.items()}


def _pending(answer: Any) -> dict[str, str] | None:
    if isinstance(answer, redis.ResponseError) and "NOGROUP" in str(answer):
        return None
    if isinstance(answer, Exception):
        raise answer
    return {row["message_id"].decode(): row["consumer"].decode() for row in answer}


def raw_keys(client: redis.Redis, queue: str) -> dict[bytes, bytes]:
    """Return every key of a queue with its value in the server's dump format."""
    found: Any = client.scan_iter(match=f"{base_key(queue)}*", count=10_000)
    keys = sorted(found)
    pipe = client.pipeline(transaction=False)
    for key in keys:
        pipe.dump(key)
    return dict(zip(keys, pipe.execute(), strict=True))
