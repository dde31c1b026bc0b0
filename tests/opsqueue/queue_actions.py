"""Actions and their arguments for a queue and its model in test_queue_model.py."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from opsqueue.model.names import meta_key_text
from opsqueue.strategy import parse_strategy

WORKERS = st.sampled_from(["w1", "w2", "w3"])
META_KEYS = ("customer", 're:g,ion=1 %C3 "ö😀\n\0')
"""One that stands in Redis as it is, and one that is encoded there."""
PAIRS = st.dictionaries(st.sampled_from(META_KEYS), st.integers(-1, 2), max_size=2)
CHANGES = st.dictionaries(
    st.sampled_from(META_KEYS), st.none() | st.integers(-1, 2), min_size=1, max_size=2
)
STRATEGIES = st.sampled_from(
    [
        parse_strategy(text.replace("region", meta_key_text(META_KEYS[1])))
        for text in (
            "Oldest",
            "Newest",
            "Random",
            "PreferDistinct(customer, Oldest)",
            "PreferDistinct(customer, Newest)",
            "PreferDistinct(region, Random)",
            "PreferDistinct(customer, PreferDistinct(region, Oldest))",
            "SelectOnly(customer, 1, Newest)",
            "Highest(region, Oldest)",
            "Lowest(region, Newest)",
            "Highest(customer, Random)",
            "Highest(region, PreferDistinct(customer, Oldest))",
            "MaxSimultaneous(customer, 2, Oldest)",
            "MaxSimultaneous(region, 1, PreferDistinct(customer, Newest))",
            "MaxSimultaneous(customer, 1, MaxSimultaneous(region, 2, Oldest))",
            "RateLimit(customer, 0.5, 2, Oldest)",
            "RateLimit(region, 2, 3, PreferDistinct(customer, Oldest), operations)",
            "OrElse(SelectOnly(customer, 2, Oldest), MaxSimultaneous(region, 2, Newest))",
            "PreferDistinct(customer, SelectOnly(region, 1, Oldest))",
        )
    ]
)
PICK = st.integers(0, 59)
"""An index into the possible choices, taken modulo their number."""
TOKENS = st.lists(PICK, min_size=1, max_size=5)
JITTER = st.sampled_from([0, 1, 333, 500, 999, 1_000])
NEW = st.fixed_dictionaries(
    {
        "chunks": st.sampled_from([0, 1, 2, 3, 5, 8, 9, 17, 25]),
        "chunk_size": st.integers(1, 3),
        "is_short": st.booleans(),
        "max_attempts": st.sampled_from([1, 2, 3, 3, None]),
        "backoff": st.sampled_from(
            [(0, 0), (0, 5_000), (1_000, 1_000), (1_000, 4_000), (1, 3), (None, 3), (2_000, None)]
        ),
        "pairs": PAIRS,
        "max_failed": st.sampled_from([None, None, 0, 1, 2, 0.1, 1.0]),
        "retention_ms": st.sampled_from([0, 5_000, 10**9, None]),
        "deletes_inputs": st.booleans(),
        "is_inline": st.booleans(),
        "key": st.sampled_from([*[""] * 6, "k1", "k2"]),
        "old_prefix": st.sampled_from([*[None] * 8, 0, 1, 2]),
    }
)
BEGUN = st.none() | st.lists(PICK, max_size=3)
"""The chunks that a worker reports as begun; None: it reports nothing."""
TIMEOUT_MS = st.sampled_from([0, 1_000, 30_000, 60_000])
RESERVE: dict[str, st.SearchStrategy[Any]] = {
    "worker": WORKERS,
    "limit": st.sampled_from([1, 2, 3, 6, 1_000]),
    "reservation_ms": st.sampled_from([1, 1, 1_000, 50_000]),
    "strategy": STRATEGIES,
    "timeout_ms": TIMEOUT_MS,
    "begun": BEGUN,
    "alone": st.booleans(),
}
LIMIT = st.sampled_from([1, 2, 5, 1_000])

# One rule that draws among these, not a rule for each: Hypothesis would leave out half of the rules
# in each example, and without reserves there is little to see. (weight, method, arguments)
ACTIONS: list[tuple[int, str, dict[str, st.SearchStrategy[Any]]]] = [
    (2, "insert", {"new": NEW}),
    (2, "cancel", {"pick": PICK}),
    (2, "retry", {"pick": PICK}),
    (1, "update_metadata", {"pick": PICK, "changes": CHANGES}),
    (1, "forget", {"limit": st.integers(1, 3), "picks": st.lists(PICK, max_size=2)}),
    (
        1,
        "set_defaults",
        {
            "changes": st.fixed_dictionaries(
                {},
                optional={
                    "max_attempts": st.sampled_from([None, 1, 4]),
                    "backoff_first_ms": st.sampled_from([None, 0, 3_000]),
                    "backoff_max_ms": st.sampled_from([None, 2_000, 9_000]),
                    "retention_ms": st.sampled_from([None, 0, 2_000]),
                },
            )
        },
    ),
    (
        1,
        "delete_inputs",
        {"limit": st.integers(1, 3), "picks": TOKENS, "index": st.integers(0, 30)},
    ),
    (1, "discard_prefixes", {"picks": TOKENS}),
    (4, "reserve", RESERVE),
    (
        3,
        "reserve_and_report",
        {**RESERVE, "reports": st.lists(PICK, max_size=12), "jitter": JITTER},
    ),
    (3, "complete", {"picks": TOKENS, "failed": st.integers(0, 2)}),
    (3, "fail", {"pick": PICK, "jitter": JITTER}),
    (2, "release", {"picks": TOKENS, "delay_ms": st.sampled_from([0, 0, 1, 2_000])}),
    (
        2,
        "heartbeat",
        {
            "worker": WORKERS,
            "picks": st.lists(PICK, max_size=8),
            "unknown_ms": st.sampled_from([0, 500, 30_000]),
            "timeout_ms": TIMEOUT_MS,
            "begun": BEGUN,
        },
    ),
    (2, "note_begun", {"worker": WORKERS, "begun": st.lists(PICK, max_size=3)}),
    (4, "die", {"worker": WORKERS, "begun": BEGUN}),
    (1, "retire", {"worker": WORKERS, "limit": LIMIT}),
    (1, "reclaim_dead", {"limit": LIMIT}),
    (2, "reclaim_expired", {"limit": LIMIT}),
    (1, "pause_or_resume", {"is_paused": st.sampled_from([False, False, False, True])}),
    (3, "pass_time", {"ms": st.sampled_from([1, 10, 999, 1_000, 5_000, 60_000, -1, -3_000])}),
    (1, "lose", {"stream_too": st.booleans()}),
    (1, "remove_entries", {"picks": TOKENS}),
    (1, "trim", {"left": st.integers(0, 2)}),
    (1, "acknowledge", {"picks": TOKENS}),
    (1, "delete_consumer", {"worker": WORKERS}),
    (
        2,
        "repair",
        {"limit": st.sampled_from([1, 1, 2, 1_000]), "steps": st.sampled_from([1, 3, 500])},
    ),
    (1, "begin_repair", {"limit": st.sampled_from([1, 1_000])}),
]
ACTION = st.one_of(
    *(
        st.tuples(st.just(name), st.fixed_dictionaries(arguments))
        for weight, name, arguments in ACTIONS
        for _ in range(weight)
    )
)
