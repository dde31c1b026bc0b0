"""Levels of our own loggers, which a user may set at any time."""

from __future__ import annotations

import logging

from opsqueue.tracing.logs import keep_logging


def test_a_level_that_is_set_later_holds_for_a_logger_that_has_logged() -> None:
    ours, one = logging.getLogger("opsqueue"), logging.getLogger("opsqueue.a_test")
    before = ours.level
    keep_logging()
    try:
        ours.setLevel(logging.INFO)
        was_enabled = one.isEnabledFor(logging.INFO)
        ours.setLevel(logging.WARNING)

        assert (was_enabled, one.isEnabledFor(logging.INFO)) == (True, False)
    finally:
        ours.setLevel(before)
