"""The app for other WSGI servers, with settings from the environment."""

from __future__ import annotations

import click
import pytest
from falcon import testing

from opsqueue_api.cli import settings_of_environment
from opsqueue_api.settings import Limits, Settings
from opsqueue_api.wsgi import application


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine's own settings stay out."""
    for name in ("REDIS_URL", "STORE_URL", "API_HOST", "API_PORT", "API_THREADS"):
        monkeypatch.delenv(f"OPSQUEUE_{name}", raising=False)


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
    """Named as the option is."""
    monkeypatch.setenv("OPSQUEUE_STORE_URL", "memory://wsgi")
    monkeypatch.setenv("OPSQUEUE_REDIS_URL", "redis://elsewhere")
    monkeypatch.setenv("OPSQUEUE_API_PORT", "8080")
    monkeypatch.setenv("OPSQUEUE_API_MAX_BODY_CHUNKS", "7")

    expected = Settings(
        store_url="memory://wsgi",
        redis_url="redis://elsewhere",
        port=8080,
        limits=Limits(body_chunks=7),
    )
    assert expected == settings_of_environment()


def test_a_missing_store_is_named() -> None:
    """It has no default: workers and producers must have the same."""
    with pytest.raises(click.UsageError, match="store_url"):
        application()
