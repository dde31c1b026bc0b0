"""The choices that a strategy allows, in plain Python: a model of the scripts' strategies."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from opsqueue.model.submission import SubmissionId
from opsqueue.strategy import TICKS_A_SECOND, AnyStrategy, Layer

TICKS_A_MS = TICKS_A_SECOND // 1_000
EPOCH_MS = 1_735_689_600_000


@dataclass
class Buckets:
    """Of rate limits: (key, value) -> tick at which it is full again."""

    full_at: dict[tuple[str, int], int] = field(default_factory=dict)

    def has_token(self, layer: Layer, value: int, now: int) -> bool:
        _, key, interval, burst, _ = layer
        ticks = (now - EPOCH_MS) * TICKS_A_MS
        full_at = self.full_at.get((str(key), value), 0)
        return full_at + int(interval) <= ticks + int(burst) * int(interval)

    def take(self, layer: Layer, value: int, operations: int, now: int) -> None:
        _, key, interval, _, unit = layer
        ticks = (now - EPOCH_MS) * TICKS_A_MS
        tokens = operations if unit == "operations" else 1
        full_at = max(self.full_at.get((str(key), value), 0), ticks)
        self.full_at[str(key), value] = full_at + tokens * int(interval)


def allowed(  # noqa: C901 a case for each layer
    strategy: AnyStrategy,
    ready: Mapping[SubmissionId, Mapping[str, int]],
    *,
    in_hand: Callable[[str, int | None], int],
    buckets: Buckets,
    now: int,
) -> tuple[set[SubmissionId], list[Layer]]:
    """Return the submissions that may come next, and the layers of the alternative that found them.

    Args:
        strategy: asked.
        ready: submissions with something free, and their strategic metadata.
        in_hand: chunks in hand of a key's value; of None: of submissions that lack the key.
        buckets: of rate limits.
        now: milliseconds.
    """

    def passes(layer: Layer, meta: Mapping[str, int]) -> bool:
        value = meta.get(str(layer[1]))
        match layer[0]:
            case "select_only":
                return str(value) == layer[2]
            case "max":
                return value is None or in_hand(str(layer[1]), value) < int(layer[2])
            case "rate":
                return value is None or buckets.has_token(layer, value, now)
        return True

    def rank(layer: Layer, meta: Mapping[str, int]) -> tuple[int, int]:
        value = meta.get(str(layer[1]))
        match layer[0]:
            case "prefer_distinct":
                return 0, in_hand(str(layer[1]), value)
            case "highest":
                return (1, 0) if value is None else (0, -value)
            case "lowest":
                return (1, 0) if value is None else (0, value)
        return 0, 0

    for layers in strategy.alternatives():
        left = {
            id_ for id_, meta in ready.items() if all(passes(layer, meta) for layer in layers[:-1])
        }
        if not left:
            continue
        for layer in layers[:-1]:
            best = min(rank(layer, ready[id_]) for id_ in left)
            left = {id_ for id_ in left if rank(layer, ready[id_]) == best}
        if [layer[0] for layer in layers[:-1]] == ["rate"]:
            # Not exact: where the best has no token, the value that has had one for longest.
            return left, list(layers)
        match layers[-1][0]:
            case "oldest":
                return {min(left)}, list(layers)
            case "newest":
                return {max(left)}, list(layers)
        return left, list(layers)
    return set(), []
