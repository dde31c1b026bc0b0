"""Producers as processes: killed in the middle of an upload, and with limited memory."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from opsqueue.exceptions import NewObjectStoreClientError
from opsqueue.model.submission import SubmissionId
from opsqueue.producer import ProducerClient
from tests.system.conftest import Start

pytestmark = pytest.mark.system

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "memory.py"
COUNT = 200


def test_a_producer_killed_half_way_has_inserted_nothing_and_its_key_goes_on(
    start: Start, redis_url: str, module_api_url: str, module_store_url: str, queue_name: str
) -> None:
    """The second run with the key inserts, once; the third is given the second's submission."""
    arguments = ("upload", module_api_url, module_store_url, queue_name, "key", str(COUNT))
    folder = Path(re.sub(r"^file://|\?.*$", "", module_store_url)) / queue_name
    killed = start(*arguments, "hang")
    killed.wait_for_line("half way")
    killed.signal(signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL

    with ProducerClient(module_api_url, module_store_url, queue=queue_name) as producer:
        stored_half = len(list(folder.rglob("*-in")))
        inserted_half = list(producer.list_submissions())
        second, third = (start(*arguments).wait_for_line("inserted") for _ in range(2))
        start("consume", redis_url, module_store_url, queue_name)
        results = list(
            producer.blocking_stream_completed_submission(SubmissionId(second.split()[1]))
        )
        (inserted,) = producer.list_submissions()

    assert 0 < stored_half < COUNT // 10
    assert inserted_half == []
    assert second == third == f"inserted {inserted.id}"
    assert list(range(1, COUNT + 1)) == results


def test_memory_does_not_grow_with_the_operations_of_a_generator(
    module_api_url: str, module_store_url: str
) -> None:
    """Ten times as many under the same cap of the kernel's take no more; as a list they fail."""
    command = [sys.executable, str(BENCHMARK), "--into", module_api_url, module_store_url]
    sizes = ("--operations", "20000", "200000", "--text-bytes", "1000")

    streamed = subprocess.run(
        [*command, *sizes], check=False, capture_output=True, text=True, timeout=60
    )
    listed = subprocess.run(
        [*command, *sizes, "--as-list"], check=False, capture_output=True, text=True, timeout=60
    )

    assert streamed.returncode == 0, streamed.stderr
    few, many = (json.loads(row)["peak_mib"] for row in streamed.stdout.splitlines())
    assert many < few + 20
    assert "MemoryError" in listed.stderr
    assert [20_000] == [json.loads(row)["operations"] for row in listed.stdout.splitlines()]


def test_a_producer_with_another_store_than_the_api_is_told_at_its_first_insert(
    module_api_url: str, tmp_path: Path, queue_name: str
) -> None:
    """Not when the first result is missing; and nothing is stored at the wrong place."""
    with (
        ProducerClient(module_api_url, f"file://{tmp_path}/other", queue=queue_name) as producer,
        pytest.raises(NewObjectStoreClientError, match="is not the object store of the API"),
    ):
        producer.insert_submission([1], chunk_size=1)

    assert not (tmp_path / "other").exists()
