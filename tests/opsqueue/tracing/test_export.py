"""Export as the OTEL_* variables say; real processes that export are in tests/system."""

from __future__ import annotations

import subprocess
import sys

import pytest
from opentelemetry import trace

from opsqueue.tracing import export as span_export
from opsqueue.tracing.export import export_spans

SWITCHES = (
    "OTEL_TRACES_EXPORTER",
    "OTEL_EXPORTER_OTLP_ENDPOINT",
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
)


@pytest.fixture(autouse=True)
def set_up(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """No variables of the tests' own environment, and no provider for the other tests."""
    for name in SWITCHES:
        monkeypatch.delenv(name, raising=False)
    made: list[object] = []
    monkeypatch.setattr(trace, "set_tracer_provider", made.append)
    return made


@pytest.mark.parametrize(
    ("variables", "names"),
    [
        ({}, []),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"}, ["otlp_proto_http"]),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://c:4318"}, ["otlp_proto_http"]),
        ({"OTEL_TRACES_EXPORTER": "otlp, console"}, ["otlp_proto_http", "console"]),
        ({"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"}, []),
        (
            {"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"},
            ["otlp_proto_grpc"],
        ),
    ],
)
def test_the_variables_say_which_exporters(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], names: list[str]
) -> None:
    """None without them."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)

    assert names == span_export._exporter_names()


@pytest.mark.parametrize(
    ("variables", "service"),
    [({}, "ours"), ({"OTEL_SERVICE_NAME": "theirs"}, "theirs")],
)
def test_a_service_is_named_by_its_program_unless_the_variables_do(
    monkeypatch: pytest.MonkeyPatch,
    set_up: list[object],
    variables: dict[str, str],
    service: str,
) -> None:
    """OTEL_SERVICE_NAME goes first."""
    monkeypatch.setattr(span_export, "_send_the_rest_at_exit", lambda *_: None)
    for name, value in {"OTEL_TRACES_EXPORTER": "console", **variables}.items():
        monkeypatch.setenv(name, value)

    export_spans("ours")

    (provider,) = set_up
    assert provider.resource.attributes["service.name"] == service  # type: ignore[attr-defined]
    provider.shutdown()  # type: ignore[attr-defined]


@pytest.mark.usefixtures("recorded")
def test_an_sdk_that_is_there_is_left_alone(
    monkeypatch: pytest.MonkeyPatch, set_up: list[object]
) -> None:
    """The app's own, or that of opentelemetry-instrument."""
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "console")

    export_spans("ours")

    assert not set_up


def test_work_goes_on_without_an_exporter_that_is_not_there(
    monkeypatch: pytest.MonkeyPatch, set_up: list[object], caplog: pytest.LogCaptureFixture
) -> None:
    """A line says so, and what can be set."""
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "zipkinn")

    export_spans("ours")

    assert not set_up
    assert "no exporter 'zipkinn' is installed" in caplog.text


def test_a_program_s_end_does_not_wait_for_a_collector_that_is_not_there() -> None:
    """The exporter alone would go on trying for half a minute."""
    program = (
        "from opsqueue import tracing\n"
        "from opsqueue.tracing import export as span_export\n"
        "span_export._LAST_SPANS_S = 0.2\n"
        "span_export.export_spans('ours')\n"
        "with tracing.span('last'): pass\n"
    )

    subprocess.run(
        [sys.executable, "-c", program],
        env={
            "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9",
            "OTEL_EXPORTER_OTLP_TIMEOUT": "100",
            "PYTHONPATH": ":".join(sys.path),
        },
        timeout=25,
        check=True,
    )
