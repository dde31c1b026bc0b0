"""The app for other WSGI servers, with settings from the environment."""

from __future__ import annotations

import os
from pathlib import Path

import click
import pytest
from falcon import testing

from opsqueue.model.new_submission import Defaults
from opsqueue_api.cli import settings_of_environment
from opsqueue_api.http.settings import Limits, Settings
from opsqueue_api.http.tokens import parse_tokens
from opsqueue_api.wsgi import application


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine's own settings stay out."""
    for name in [key for key in os.environ if key.startswith("OPSQUEUE_")]:
        monkeypatch.delenv(name)


def test_the_app_is_made_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is connected to before the first request."""
    monkeypatch.setenv("OPSQUEUE_STORE_URL", "memory://wsgi")

    response = testing.TestClient(application()).simulate_get("/healthz")

    assert response.status_code == 200


def test_options_and_settings_have_the_same_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which are written in two places."""
    monkeypatch.setenv("OPSQUEUE_STORE_URL", "memory://wsgi")

    assert Settings(store_url="memory://wsgi") == settings_of_environment()


def test_every_setting_has_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    """It has the name of the option."""
    monkeypatch.setenv("OPSQUEUE_STORE_URL", "memory://wsgi")
    monkeypatch.setenv("OPSQUEUE_REDIS_URL", "redis://elsewhere")
    monkeypatch.setenv("OPSQUEUE_API_PORT", "8080")
    monkeypatch.setenv("OPSQUEUE_API_MAX_BODY_CHUNKS", "7")
    monkeypatch.setenv("OPSQUEUE_DEFAULT_MAX_ATTEMPTS", "3")
    monkeypatch.setenv("OPSQUEUE_DEFAULT_BACKOFF", "5s")
    monkeypatch.setenv("OPSQUEUE_DEFAULT_MAX_BACKOFF", "10m")
    monkeypatch.setenv("OPSQUEUE_DEFAULT_RETENTION", "7d")

    expected = Settings(
        store_url="memory://wsgi",
        redis_url="redis://elsewhere",
        port=8080,
        defaults=Defaults(
            max_attempts=3,
            backoff_first_ms=5_000,
            backoff_max_ms=600_000,
            retention_ms=7 * 24 * 3_600_000,
        ),
        limits=Limits(body_chunks=7),
    )
    assert expected == settings_of_environment()


@pytest.mark.parametrize(
    "variables",
    [
        {"BACKOFF": "2m", "MAX_BACKOFF": "1m"},
        {"MAX_ATTEMPTS": "0"},
        {"RETENTION": "7"},
        {"RETENTION": "4000d"},
    ],
)
def test_defaults_that_no_submission_can_have_are_refused_at_start(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]
) -> None:
    """Not by each insert that goes without them."""
    monkeypatch.setenv("OPSQUEUE_STORE_URL", "memory://wsgi")
    for name, value in variables.items():
        monkeypatch.setenv(f"OPSQUEUE_DEFAULT_{name}", value)

    with pytest.raises(click.UsageError) as raised:
        settings_of_environment()
    assert "--default-" in raised.value.format_message()


def test_a_missing_store_is_named() -> None:
    """It has no default, since workers and producers must use the same one."""
    with pytest.raises(click.UsageError, match="store_url"):
        application()


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "localhost", "::1"])
def test_this_machine_alone_needs_no_tokens(monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    """Any loopback address."""
    monkeypatch.setenv("OPSQUEUE_STORE_URL", "memory://wsgi")
    monkeypatch.setenv("OPSQUEUE_API_HOST", host)

    assert settings_of_environment().tokens == ()


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "::ffff:192.0.2.1", "no..host"])  # noqa: S104 the point
def test_an_address_that_others_reach_takes_tokens(
    monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    """Or the option --insecure; the message names both."""
    monkeypatch.setenv("OPSQUEUE_STORE_URL", "memory://wsgi")
    monkeypatch.setenv("OPSQUEUE_API_HOST", host)

    with pytest.raises(click.UsageError, match=r"OPSQUEUE_API_TOKENS.*--tokens-file.*--insecure"):
        settings_of_environment()

    monkeypatch.setenv("OPSQUEUE_API_INSECURE", "true")
    assert settings_of_environment().host == host
    monkeypatch.delenv("OPSQUEUE_API_INSECURE")
    monkeypatch.setenv("OPSQUEUE_API_TOKENS", "web:0123456789abcdef:produce")
    assert [token.name for token in settings_of_environment().tokens] == ["web"]


def test_tokens_of_variable_and_file_hold_together(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The file is a mounted secret, one token a line."""
    one, other = "web:0123456789abcdef:produce", "ops:fedcba9876543210:admin"
    (tmp_path / "tokens").write_text(f"# ours\n{other}\n")
    monkeypatch.setenv("OPSQUEUE_STORE_URL", "memory://wsgi")
    monkeypatch.setenv("OPSQUEUE_API_TOKENS", one)
    monkeypatch.setenv("OPSQUEUE_API_TOKENS_FILE", str(tmp_path / "tokens"))

    assert settings_of_environment().tokens == parse_tokens(f"{one};{other}")


@pytest.mark.parametrize(
    ("variable", "file", "says"),
    [
        ("", "", "tokens: it has no token"),
        (";", "web:0123456789abcdef:admin", "OPSQUEUE_API_TOKENS: it has no token"),
        ("web:0123456789abcdef:admin", "web:0123456789abcdefg:admin", "and .*tokens: .*the name"),
        ("", "\xff", "can't read the tokens' file .*tokens: no UTF-8"),
    ],
)
def test_tokens_that_can_not_be_read_protect_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, variable: str, file: str, says: str
) -> None:
    """So the API does not start, not even on the loopback address."""
    (tmp_path / "tokens").write_text(file, encoding="latin-1")
    monkeypatch.setenv("OPSQUEUE_STORE_URL", "memory://wsgi")
    monkeypatch.setenv("OPSQUEUE_API_TOKENS", variable)
    monkeypatch.setenv("OPSQUEUE_API_TOKENS_FILE", str(tmp_path / "tokens"))

    with pytest.raises(click.UsageError, match=says):
        settings_of_environment()
