"""Every row of the table in docs/internals/failures.md has a test, which is named here.

The fault suite (tests/chaos) combines many of them; a row's own test shows it alone.
"""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[1]
TESTS: Final = ROOT / "tests"

SHOWN_BY: Final = {
    "handler raises or is cancelled, wrong or unencodable result": (
        "system/test_worker_process.py::test_a_handlers_exception_is_in_the_submissions_status",
        "system/test_worker_process.py::test_a_result_that_cannot_be_encoded_fails_its_chunk",
        "opsqueue/handlers/test_execute.py::test_a_wrong_result_fails_the_chunk_with_what_is_wrong",
        "opsqueue/queue/test_fail.py::test_the_backoff_doubles_to_its_cap",
        "opsqueue/queue/test_fail.py::test_drawn_jitter_stays_within_its_half",
        "opsqueue/queue/test_fail.py::test_the_tenth_failure_fails_the_submission_with_that_failure",
    ),
    "a store's disk is not mounted, or its bucket was emptied": (
        ("system/test_worker_process.py::test_chunks_go_back_while_the_stores_disk_is_not_mounted"),
        "opsqueue/queue/test_store_identity.py::test_nothing_is_made_or_missing_where_a_disk_was",
        (
            "opsqueue_api/resources/test_health.py::"
            "test_a_store_that_is_not_mounted_makes_a_process_unready"
        ),
    ),
    "one object can't be read or written, and the store's marker can": (
        "opsqueue/queue/test_store_identity.py::test_a_single_unusable_object_uses_an_attempt",
        (
            "opsqueue/queue/test_store_identity.py::"
            "test_one_bad_file_is_told_apart_from_a_store_that_is_away"
        ),
    ),
    "a request's body breaks off": (
        "system/test_malformed_requests.py::test_half_an_output_is_not_stored",
        (
            "system/test_malformed_requests.py::"
            "test_what_is_broken_is_answered_as_a_problem_and_changes_nothing"
        ),
        "opsqueue_api/resources/test_ndjson.py::test_a_body_that_breaks_off_inserts_nothing",
    ),
    "child process dies": (
        (
            "system/test_recovery.py::"
            "test_a_killed_child_is_replaced_and_its_chunk_taken_over_within_a_second"
        ),
        "system/test_worker_children.py::test_a_death_is_noticed_though_a_fork_lives_on",
    ),
    "a defect in one of a child's threads": (
        "system/test_defects.py::test_a_defect_in_a_childs_thread_ends_the_child_as_if_it_had_died",
    ),
    "children die while they start": (
        (
            "system/test_defects.py::"
            "test_children_that_die_while_they_start_are_started_again_more_slowly"
        ),
    ),
    "new code does not start, or takes too long": (
        "system/test_worker_start.py::test_new_code_that_does_not_start_replaces_nothing",
        "opsqueue_worker/pool/test_starts.py::test_new_code_that_hangs_is_given_up",
    ),
    "no memory, descriptors or processes for a child": (
        "system/test_worker_start.py::test_a_worker_without_resources_for_a_child_stays_and_tells",
    ),
    "nobody reads the output, or its disk is full": (
        (
            "system/test_worker_start.py::"
            "test_output_that_nobody_reads_stops_neither_work_nor_the_end"
        ),
        "system/test_worker_options.py::test_a_worker_needs_no_standard_streams",
    ),
    "a handler closes or writes to descriptors of others": (
        "system/test_worker_start.py::test_a_worker_works_whatever_its_app_does_to_its_process",
        "opsqueue_worker/pool/test_child.py::test_a_child_that_sends_nonsense_is_killed",
    ),
    "handler runs past its soft time limit": (
        "system/test_worker_options.py::test_a_soft_time_limit_is_raised_in_the_handler",
        (
            "opsqueue/handlers/test_attempt.py::"
            "test_a_soft_limit_reaches_a_coroutine_and_nothing_of_it_runs_afterwards"
        ),
        ("opsqueue/handlers/test_attempt.py::test_a_soft_limit_reaches_operations_in_threads"),
    ),
    "threads or tasks of a failed attempt do not end": (
        (
            "system/test_handler_limits.py::"
            "test_a_child_is_replaced_when_threads_of_an_attempt_did_not_end"
        ),
        (
            "opsqueue/handlers/test_attempt.py::"
            "test_a_task_that_refuses_to_end_makes_the_process_unfit"
        ),
    ),
    "a process that has done its work does not end": (
        (
            "system/test_handler_limits.py::"
            "test_a_retired_child_ends_whatever_handlers_have_left_in_it"
        ),
        "system/test_handler_limits.py::test_term_ends_a_worker_whose_stop_hooks_hang",
    ),
    "handler runs past its time limit": (
        "system/test_worker_options.py::test_a_chunk_past_its_time_limit_is_killed",
    ),
    "worker stalls past the heartbeat timeout and wakes up": (
        "system/test_recovery.py::test_a_stalled_worker_that_wakes_up_changes_nothing",
    ),
    "a master of a cluster dies, or the one that Sentinels watch": (
        "system/test_failover.py::test_all_chunks_complete_though_a_master_is_killed_in_the_middle",
    ),
    "a cluster's slot moves": (
        "opsqueue/queue/test_cluster.py::test_a_queue_is_followed_when_its_slot_moves",
        "opsqueue/queue/test_cluster.py::test_a_queue_stands_still_while_its_slot_is_moved_key_by_key",
    ),
    "a connection to Redis hangs": (
        "system/test_recovery.py::test_a_connection_that_hangs_is_given_up",
    ),
    "a node of a cluster hangs": (
        (
            "opsqueue_worker/intake/test_heartbeat.py::"
            "test_a_server_that_hangs_keeps_no_other_from_its_beats"
        ),
    ),
    "a defect in one of the worker's threads": (
        (
            "system/test_defects.py::"
            "test_a_defect_in_a_workers_thread_gives_its_chunks_back_and_ends_it"
        ),
    ),
    "worker, consumer or machine dies": (
        "system/test_worker_process.py::test_a_killed_workers_chunks_are_taken_over",
        "system/test_consumers.py::test_a_killed_consumers_chunk_is_done_by_another",
    ),
    "a chunk kills its whole worker": (
        (
            "opsqueue/queue/test_suspects.py::"
            "test_a_killer_among_a_thousand_chunks_takes_none_of_them_along"
        ),
        "opsqueue/queue/test_suspects.py::test_a_lost_fleet_is_worked_off_by_the_next_one",
    ),
    "the sweeper that leads dies": (
        (
            "opsqueue/queue/test_sweeper.py::"
            "test_a_leader_that_dies_is_replaced_and_what_it_had_taken_is_swept"
        ),
        "opsqueue/queue/test_sweeper.py::test_a_sweeper_that_stops_lets_another_one_lead",
    ),
    "the sweepers' index is lost or may not be read": (
        "opsqueue/queue/test_sweeper.py::test_an_index_that_was_lost_is_made_good_by_the_slow_round",
        "opsqueue/queue/test_sweeper.py::test_what_is_asked_for_is_swept_whoever_leads",
        "opsqueue/queue/test_due.py::test_no_chunk_waits_for_an_index_that_is_not_there",
    ),
    "reservation runs out though the worker lives": (
        (
            "opsqueue/queue/test_sweeper.py::"
            "test_a_sweep_frees_chunks_whose_reservation_ran_out_though_their_worker_lives"
        ),
        "opsqueue/queue/test_begun.py::test_only_what_has_begun_uses_an_attempt",
    ),
    "an operation raises, and its handler collects errors": (
        "opsqueue/handlers/test_execute.py::test_errors_are_stored_with_the_results_and_counted",
    ),
    "more operations fail than `max_failed_operations`": (
        (
            "opsqueue/queue/test_failed_operations.py::"
            "test_past_its_limit_a_submission_fails_and_the_rest_is_dropped"
        ),
    ),
    "input missing": (
        "opsqueue/handlers/test_execute.py::test_a_missing_input_fails_the_chunk_at_once",
    ),
    (
        "input damaged, or in a codec that no live worker reads; a stored output that can't be read"
    ): (
        "opsqueue/handlers/test_execute.py::test_damaged_input_fails_the_chunk",
        "opsqueue/handlers/test_execute.py::test_what_no_further_attempt_can_mend_is_not_tried_again",
        (
            "opsqueue/handlers/test_execute.py::"
            "test_a_stored_output_that_cannot_be_read_is_not_tried_again"
        ),
        (
            "opsqueue/handlers/test_execute.py::"
            "test_a_chunk_is_left_to_a_live_worker_that_reads_its_codec"
        ),
        "opsqueue/queue/test_fail.py::test_a_final_failure_is_the_last_attempt",
    ),
    "store out of order while fetching": (
        "opsqueue/handlers/test_execute.py::test_a_store_out_of_order_uses_no_attempt",
    ),
    "store out of order while saving": (
        (
            "opsqueue/handlers/test_execute.py::"
            "test_a_store_out_of_order_at_the_end_is_asked_again_and_uses_no_attempt"
        ),
    ),
    "Redis does not answer a worker": (
        "system/test_recovery.py::test_a_server_that_restarts_finds_its_worker_again",
        "opsqueue/model/test_backoff.py::test_there_is_a_pause_however_long_the_outage",
    ),
    "Redis has lost all its data": (
        "opsqueue/rebuild/test_restored.py::test_work_goes_on_after_redis_was_lost",
    ),
    "a queue's or store's format is newer than a program": (
        "opsqueue/queue/test_format.py::test_a_call_is_refused_naming_both_versions",
        "opsqueue/store/test_conformance.py::test_a_store_whose_format_is_too_new_is_refused",
        (
            "system/test_versions.py::"
            "test_a_worker_leaves_a_queue_whose_format_is_too_new_and_serves_the_others"
        ),
    ),
    "disk or replica does not confirm an insert": (
        "opsqueue_api/test_durability.py::test_an_insert_that_is_not_confirmed_is_answered_503",
        "opsqueue_api/test_durability.py::test_an_insert_is_confirmed_by_repeating_it",
    ),
    "Redis comes back without its last writes": (
        "system/test_durability.py::test_completions_that_a_server_lost_are_made_again",
    ),
    "answer of a report lost": (
        "opsqueue/queue/test_complete.py::test_a_report_that_is_repeated_does_not_count_twice",
        "system/test_recovery.py::test_a_connection_that_hangs_is_given_up",
    ),
    "answer of a reserve lost": (
        (
            "opsqueue/queue/test_heartbeat.py::"
            "test_an_old_reservation_that_the_worker_does_not_know_is_released"
        ),
    ),
    "scripts flushed": (
        "system/test_recovery.py::test_flushed_scripts_are_loaded_again",
        "opsqueue/queue/test_script.py::test_a_script_is_loaded_again_when_the_server_forgot_it",
    ),
    "stream or group deleted": (
        "system/test_recovery.py::test_a_deleted_group_or_stream_is_made_again_and_repaired",
    ),
    (
        "entries of the stream removed or acknowledged by hand, "
        "or by a server that lost its last writes"
    ): (
        (
            "opsqueue/queue/test_lost_reservations.py::"
            "test_a_removed_entry_is_acknowledged_by_whoever_meets_it_and_its_chunk_is_freed"
        ),
        (
            "opsqueue/queue/test_lost_reservations.py::"
            "test_an_entry_that_nobody_is_said_to_hold_is_removed_and_its_chunk_is_freed"
        ),
    ),
    "both halves of a reservation removed by hand": (
        "opsqueue/cli/test_repair.py::test_chunks_whose_reservations_are_gone_are_freed",
    ),
    "wake-up lost: its worker was killed or stopped, the connection broke": (
        "opsqueue_worker/intake/test_intake.py::test_an_intake_that_no_wake_up_reached_looks_again_anyway",
        "system/test_wake_ups.py::test_a_chunk_whose_worker_is_woken_in_vain_is_found_by_another",
    ),
    "API does not answer a producer, or Redis the API": (
        "opsqueue/http/test_http_api.py::test_repeated_inserts_have_the_same_idempotency_key",
        "opsqueue/http/test_http_api.py::test_waiting_is_more_patient_than_calling",
    ),
    "a process forks that has used a client, a store or a consumer": (
        "system/test_forks.py::test_each_process_gets_the_answers_to_its_own_requests",
        "system/test_forks.py::test_a_preloaded_application_under_load",
        "system/test_forks.py::test_an_iterator_begun_before_a_fork_is_an_error_in_the_child",
        "system/test_forks.py::test_a_consumer_in_a_child_is_a_worker_of_its_own",
        "opsqueue/store/test_store_forks.py::test_a_child_uses_connections_of_its_own",
    ),
    "an answer of the API is not that of its request": (
        "opsqueue/http/test_http_api.py::test_the_answer_to_another_request_is_never_handed_on",
        "opsqueue/http/test_http_api.py::test_a_connection_with_a_wrong_answer_is_given_up",
    ),
    "no token of the API's, or one without the scope": (
        "opsqueue_api/http/test_auth.py::test_a_wrong_token_is_401",
        "opsqueue_api/http/test_auth.py::test_a_token_without_the_scope_is_told_scope_and_queue",
        "opsqueue_api/http/test_auth.py::test_the_client_says_what_is_missing",
    ),
    "API or Redis does not answer a consumer": (
        "opsqueue_api/consumer/test_outages.py::test_a_call_that_was_not_answered_is_made_again",
    ),
    "API killed": ("system/test_defects.py::test_an_api_that_was_killed_has_kept_nothing",),
    "producer dies while uploading": (
        (
            "system/test_uploads.py::"
            "test_a_producer_killed_half_way_has_inserted_nothing_and_its_key_goes_on"
        ),
        "opsqueue/queue/test_orphans.py::test_deleted_orphans_are_gone",
    ),
    "submission cancelled or failed while chunks are in hand": (
        "system/test_worker_process.py::test_a_reserved_chunk_of_a_cancelled_submission_is_revoked",
        "opsqueue/handlers/test_execute.py::test_a_revoked_chunk_is_neither_run_nor_stored",
    ),
    "deleting a forgotten submission's objects fails": (
        "opsqueue/queue/test_sweeper.py::test_what_could_not_be_deleted_is_deleted_by_the_next_sweep",
    ),
}


def rows() -> list[str]:
    """Return the failures of the table."""
    page = (ROOT / "docs" / "internals" / "failures.md").read_text()
    lines = [line for line in page.splitlines() if line.startswith("| ")]
    return [line.split("|")[1].strip() for line in lines[1:]]


@cache
def names_in(path: str) -> frozenset[str]:
    """Return the names of a file's test functions."""
    tree = ast.parse((TESTS / path).read_text())
    return frozenset(
        node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    )


def test_every_row_of_the_failure_table_has_a_test() -> None:
    assert set(rows()) == set(SHOWN_BY)


@pytest.mark.parametrize("row", SHOWN_BY)
def test_the_tests_of_a_row_exist(row: str) -> None:
    assert SHOWN_BY[row]
    for test in SHOWN_BY[row]:
        path, _, name = test.partition("::")
        assert name in names_in(path)
