"""Each of the examples, run as its docstring says, by real processes."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from opsqueue.producer import ProducerClient
from tests.system.conftest import Process, Start

pytestmark = pytest.mark.system

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def work(start: Start, redis_url: str, module_store_url: str) -> Start:
    """Start a worker of an example's app, and wait until it is ready."""

    def start_worker(app: str, *options: str, **environment: str) -> Process:
        worker = start(
            *("opsqueue_worker", app, "-c", "1", *options),
            cwd=EXAMPLES,
            OPSQUEUE_REDIS_URL=redis_url,
            OPSQUEUE_STORE_URL=module_store_url,
            **environment,
        )
        worker.wait_for_line("ready")
        return worker

    return start_worker


def run(*arguments: str, stdin: str = "") -> list[str]:
    """Run a program of the examples; return its lines."""
    ran = subprocess.run(
        [sys.executable, *arguments],
        cwd=EXAMPLES,
        input=stdin,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout.splitlines()


def test_capitalize(work: Start, module_api_url: str, module_store_url: str) -> None:
    """A text comes back capitalised, in order."""
    work("capitalize:app")
    text = "".join(f"line {n} of a text\n" for n in range(250))

    lines = run("capitalize.py", module_api_url, module_store_url, stdin=text)

    assert text.upper().splitlines() == lines


def test_increment(work: Start, module_api_url: str, module_store_url: str) -> None:
    """By a worker."""
    work("increment:app")

    with ProducerClient(module_api_url, module_store_url, queue="numbers") as producer:
        assert list(range(1, 101)) == list(producer.run_submission(range(100), chunk_size=10))


def test_consumer(start: Start, module_api_url: str, redis_url: str, module_store_url: str) -> None:
    """By a program that takes chunks itself, until SIGTERM."""
    consumer = start(
        str(EXAMPLES / "consumer.py"),
        redis_url,
        module_store_url,
        program=sys.executable,
        cwd=EXAMPLES,
    )

    with ProducerClient(module_api_url, module_store_url, queue="numbers") as producer:
        assert list(range(1, 101)) == list(producer.run_submission(range(100), chunk_size=10))
    consumer.signal(signal.SIGTERM)

    assert (consumer.wait(), consumer.lines) == (0, ["waiting for numbers"])


def test_many_producers_and_consumers(module_api_url: str, module_store_url: str) -> None:
    """Every producer checks its own results."""
    assert run("many.py", module_api_url, module_store_url, "2", "2") == [
        "2 producers have their squares, in order, of 2 consumers"
    ]


def test_asynchronous(work: Start, module_api_url: str, module_store_url: str) -> None:
    """Three submissions at once, then results as they come."""
    work("asynchronous:app", "--pool", "async")

    assert run("asynchronous.py", module_api_url, module_store_url) == [
        *(f"Hello {prefix}-0! ... Hello {prefix}-19!" for prefix in "abc"),
        "20 more as they came",
    ]


def test_traced(
    start: Start, work: Start, module_api_url: str, redis_url: str, module_store_url: str
) -> None:
    """What a handler does, and a consumer's callback, is in the producer's trace, below `send`."""
    worker = work("traced:app", OTEL_TRACES_EXPORTER="console")
    by_handler = run("traced.py", "produce", module_api_url, module_store_url)
    worker.signal(signal.SIGTERM)
    assert worker.wait() == 0
    consumer = start(
        *(str(EXAMPLES / "traced.py"), "consume", redis_url, module_store_url),
        program=sys.executable,
    )
    by_consumer = run("traced.py", "produce", module_api_url, module_store_url)
    consumer.signal(signal.SIGTERM)
    assert consumer.wait() == 0

    of_handler = r'"name": "{}",.*?"trace_id": "0x(\w+)".*?"parent_id": "0x(\w+)"'
    of_consumer = r"{} trace=(\w+) span=\w+ parent=(\w+)"
    for produced, form, output in [
        (by_handler, of_handler, worker.output),
        (by_consumer, of_consumer, consumer.output),
    ]:
        assert "['acme: 2', 'acme: 4', 'acme: 6']" in produced
        (sent,) = (line for line in produced if line.startswith("send traced"))
        trace_id, span_id = re.findall(r"(?:trace|span)=(\w+)", sent)
        processed = re.findall(form.format("process traced"), output, re.DOTALL)
        assert processed == [(trace_id, span_id)] * 2
        assert [trace_id] * 3 == [
            found for found, _ in re.findall(form.format("double"), output, re.DOTALL)
        ]


def test_llm(start: Start, work: Start, module_api_url: str, module_store_url: str) -> None:
    """Fifty calls at a time, some refused beyond the rate; what fails succeeds when retried."""
    stub = start(str(EXAMPLES / "llm_stub.py"), "0", program=sys.executable)
    llm_url = stub.wait_for_line("http")
    work("llm:app", LLM_URL=llm_url)

    shown = run("llm.py", module_api_url, module_store_url)

    seen = httpx.get(llm_url).json()
    assert shown[0] == "96 answers"
    assert [f"question {n}!" for n in range(0, 100, 25)] == [
        line.split(":")[0] for line in shown[1:5]
    ]
    assert all("500 Internal Server Error" in line for line in shown[1:5])
    assert shown[5:] == ["100 answers after the retry, 0 failed again"]
    assert (seen["200"], 25 < seen["most_at_once"] <= 50) == (100, True)
    assert seen["429"] > 0
