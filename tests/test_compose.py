"""docker-compose.yml, checked without a daemon: parsed by compose, and compared with the programs
that it starts."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import boto3
import pytest
import yaml
from moto.server import ThreadedMotoServer

from opsqueue.handlers.app import load_app
from opsqueue.store.base import parse_store_url
from opsqueue_api.http.hosts import AllowedHosts
from opsqueue_api.server import GRACEFUL_S
from tests.command_lines import PROGRAMS, declared
from tests.dockerfiles import DOCKERFILES, ROOT, health_code, last, tool

DEVELOPMENT_SECRET = "development-only"  # noqa: S105  the fact tested is that nothing else is one
ONE_SHOT = {"bucket"}
OBSERVING = {"prometheus", "grafana", "traces"}
UNASKED = {"traces"}
"""Nothing in its image could ask."""
COMPOSE_ONLY = {"OPSQUEUE_WORKERS"}
"""Read by docker-compose.yml, and by no program."""


def _compose(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run `docker-compose config` without the developer's own variables and .env."""
    return subprocess.run(
        [
            tool("docker-compose"),
            *("--env-file", os.devnull),
            *("--file", str(ROOT / "docker-compose.yml")),
            *("--profile", "observe"),
            *("config", *arguments),
        ],
        env={"PATH": os.defpath, "HOME": "/nonexistent", **variables},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )


def _read_compose(*arguments: str, **variables: str) -> dict[str, Any]:
    read: dict[str, Any] = json.loads(
        _compose("--format", "json", *arguments, **variables).stdout,
    )
    return read


@pytest.fixture(scope="module")
def stack() -> dict[str, Any]:
    """Return the file as compose parses it in a fresh clone."""
    return _read_compose()


@pytest.fixture(scope="module")
def services(stack: dict[str, Any]) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = stack["services"]
    return found


@pytest.fixture(scope="module")
def template() -> dict[str, Any]:
    """The file with its ${VARIABLES} in place."""
    return _read_compose("--no-interpolate")


def _variables_of(program: str) -> set[str]:
    """The environment variables that a program reads."""
    return {one.variable for one in declared() if one.program == program}


def _settings(
    name: str, service: Mapping[str, Any], monkeypatch: pytest.MonkeyPatch
) -> dict[str, Any]:
    """Return the options of a program as it would parse them in its container."""
    for variable in [key for key in os.environ if key.startswith("OPSQUEUE_")]:
        monkeypatch.delenv(variable)
    in_image = re.findall(r"(\w+)=(\S+)", last(name, "ENV"))
    for variable, value in [*in_image, *service["environment"].items()]:
        if variable.startswith("OPSQUEUE_"):
            monkeypatch.setenv(variable, value)
    (program,) = json.loads(last(name, "ENTRYPOINT"))
    with PROGRAMS[program].make_context(program, list(service["command"] or [])) as context:
        return dict(context.params)


def _seconds(duration: str) -> int:
    parts = re.fullmatch(r"(?:(\d+)m)?(?:(\d+)s)?", duration)
    assert parts is not None
    return 60 * int(parts[1] or 0) + int(parts[2] or 0)


def test_compose_accepts_the_file_of_a_fresh_clone() -> None:
    """No .env and no variable is needed, and compose has nothing to warn of."""
    assert _compose("--quiet").stderr == ""


def test_the_example_of_the_env_file_states_every_variable_and_the_defaults(
    template: dict[str, Any], stack: dict[str, Any]
) -> None:
    """.env.example holds what holds without it: copying it changes nothing."""
    lines = (ROOT / ".env.example").read_text().splitlines()
    stated = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
    used = set(re.findall(r"\$\{(\w+)", json.dumps(template)))

    assert used == set(stated)
    assert _read_compose(**stated) == stack


def test_every_port_is_published_on_loopback_only(services: dict[str, dict[str, Any]]) -> None:
    """Docker publishes past the firewall, and without .env the API asks for no token."""
    ports = [port for service in services.values() for port in service.get("ports", [])]

    assert {3999, 8333, 9090, 3000, 16686} == {port["target"] for port in ports}
    assert {"127.0.0.1"} == {port.get("host_ip") for port in ports}
    assert "host" not in {service.get("network_mode") for service in services.values()}


def test_redis_keeps_what_it_was_told_and_evicts_nothing(
    services: dict[str, dict[str, Any]],
) -> None:
    """Append-only file in a volume, noeviction, a password."""
    redis = services["redis"]
    program, *rest = redis["command"]
    options = dict(zip(rest[::2], rest[1::2], strict=True))

    assert program == "redis-server"
    assert options["--appendonly"] == "yes"
    assert options["--maxmemory-policy"] == "noeviction"
    assert options["--requirepass"] == DEVELOPMENT_SECRET
    assert [("volume", "/data")] == [(v["type"], v["target"]) for v in redis["volumes"]]


def test_the_stores_objects_are_in_a_volume(services: dict[str, dict[str, Any]]) -> None:
    """`docker compose down` and up again keeps the chunks."""
    volumes = services["store"]["volumes"]

    assert [("volume", "/data")] == [(v["type"], v["target"]) for v in volumes]
    assert "-dir=/data" in services["store"]["command"]


def test_no_secret_stands_in_the_file(template: dict[str, Any]) -> None:
    """Each comes from a variable, whose default says that it is for development, or is none."""
    secret = re.compile("PASSWORD|SECRET|ACCESS_KEY|AUTH$|TOKEN")
    values = {
        (name, key): value
        for name, service in template["services"].items()
        for key, value in service.get("environment", {}).items()
        if secret.search(key)
    }

    assert len(values) >= 3
    for place, value in values.items():
        assert re.fullmatch(rf"\$\{{\w+:-({DEVELOPMENT_SECRET})?\}}", value), place


def test_every_development_secret_can_be_replaced() -> None:
    """With five variables set, no development value is left anywhere."""
    given = (
        "REDIS_PASSWORD",
        "S3_ACCESS_KEY",
        "S3_SECRET_KEY",
        "METRICS_TOKEN",
        "GRAFANA_PASSWORD",
    )
    text = _compose(**dict.fromkeys(given, "mine")).stdout

    assert DEVELOPMENT_SECRET not in text


def test_the_number_of_workers_can_be_set(services: dict[str, dict[str, Any]]) -> None:
    """OPSQUEUE_WORKERS is the number of containers, OPSQUEUE_WORKER_CONCURRENCY of processes."""
    changed = _read_compose(OPSQUEUE_WORKERS="5", OPSQUEUE_WORKER_CONCURRENCY="3")["services"]

    assert services["worker"]["deploy"]["replicas"] == 2
    assert changed["worker"]["deploy"]["replicas"] == 5
    assert changed["worker"]["environment"]["OPSQUEUE_WORKER_CONCURRENCY"] == "3"


def test_observing_is_a_profile_of_its_own(services: dict[str, dict[str, Any]]) -> None:
    """Without it nothing of it is started; images are pinned to a version."""
    assert {n for n, service in services.items() if service.get("profiles")} == OBSERVING
    for name in OBSERVING:
        assert services[name]["profiles"] == ["observe"]
        assert re.fullmatch(r"[\w/]+:v?\d+\.\d+\.\d+", services[name]["image"])


def test_what_a_read_only_container_is_given_are_files(stack: dict[str, Any]) -> None:
    """Compose can't make one there of a variable or a text, and says so only when it starts it."""
    for kind in ("configs", "secrets"):
        assert not [one for one in stack.get(kind, {}).values() if "file" not in one]


def test_every_service_has_a_health_check_or_ends_by_itself(
    services: dict[str, dict[str, Any]],
) -> None:
    """In the file, or in the image that we build."""
    built = {name for name, service in services.items() if "build" in service}
    checked = {
        name for name, service in services.items() if "test" in service.get("healthcheck", {})
    }

    assert set(DOCKERFILES) == built
    assert set(services) == checked | built | ONE_SHOT | UNASKED
    assert {"no"} == {services[name]["restart"] for name in ONE_SHOT}
    for name in built:
        ast.parse(health_code(name))


def test_programs_start_when_redis_answers_and_the_bucket_is_there(
    services: dict[str, dict[str, Any]],
) -> None:
    """They check both at their start, and give up when one is missing."""
    for name in DOCKERFILES:
        conditions = {on: how["condition"] for on, how in services[name]["depends_on"].items()}
        assert conditions == {
            "redis": "service_healthy",
            "bucket": "service_completed_successfully",
        }
    assert services["bucket"]["depends_on"]["store"]["condition"] == "service_healthy"


def test_services_are_hardened(services: dict[str, dict[str, Any]]) -> None:
    """No capability, no way to more rights, nothing to write but volumes and /tmp."""
    for name, service in services.items():
        assert service["cap_drop"] == ["ALL"], name
        assert "no-new-privileges:true" in service["security_opt"], name
        assert service["read_only"], name
        assert not service.get("privileged"), name
        assert service.get("user") != "root", name
    # Its image starts as root to own its volume; the capabilities end with the change of user.
    assert {"store"} == {name for name, service in services.items() if service.get("cap_add")}


def test_the_one_shot_makes_the_bucket_that_the_programs_use(
    services: dict[str, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own code, run here against a server twice: what it makes is what it finds later."""
    (code,) = services["bucket"]["command"]
    bucket = parse_store_url(services["api"]["environment"]["OPSQUEUE_STORE_URL"]).place
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    given = services["bucket"]["environment"]
    for variable, value in {**given, "AWS_ENDPOINT_URL_S3": f"http://{host}:{port}"}.items():
        monkeypatch.setenv(variable, value)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")

    for _ in range(2):
        subprocess.run([sys.executable, "-c", code], check=True, timeout=60)

    found = boto3.session.Session().client("s3").list_buckets()["Buckets"]
    server.stop()
    # Servers of other tests in this process share their buckets with this one.
    assert [one["Name"] for one in found].count(bucket) == 1
    assert services["bucket"]["image"] == services["api"]["image"]


def test_the_worker_command_is_one_that_the_program_takes(
    services: dict[str, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Image's entry point, compose's arguments and variables, read by the program's own parser."""
    settings = _settings("worker", services["worker"], monkeypatch)

    assert settings["redis_url"] == f"redis://:{DEVELOPMENT_SECRET}@redis:6379/0"
    assert settings["store_url"] == "s3://opsqueue/chunks"
    assert settings["concurrency"] == 2


def test_the_workers_example_is_an_app(
    services: dict[str, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder is mounted where the worker looks for modules, and has the app that it names."""
    (volume,) = services["worker"]["volumes"]
    (app_path,) = services["worker"]["command"]
    monkeypatch.chdir(volume["source"])
    monkeypatch.syspath_prepend(volume["source"])

    app = load_app(app_path)

    assert (volume["target"], True) == (last("worker", "WORKDIR"), volume["read_only"])
    assert "numbers" in app.handlers


def test_the_api_listens_where_compose_publishes_it(
    services: dict[str, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On all of the container's addresses: its loopback can't be reached from outside."""
    settings = _settings("api", services["api"], monkeypatch)

    (port,) = services["api"]["ports"]
    assert (settings["host"], settings["port"]) == ("0.0.0.0", port["target"])  # noqa: S104
    assert str(port["target"]) == last("api", "EXPOSE")


def test_the_stacks_api_takes_tokens_and_starts_without(
    services: dict[str, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fresh clone's works at once; one with tokens asks for them."""
    tokens = "web:0123456789abcdef:produce@emails"
    api = _read_compose(OPSQUEUE_API_TOKENS=tokens)["services"]["api"]

    given = [_settings("api", service, monkeypatch) for service in (services["api"], api)]

    assert [("", True), (tokens, True)] == [(one["tokens"], one["insecure"]) for one in given]


def test_the_stacks_api_answers_to_the_name_that_its_other_containers_use(
    services: dict[str, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prometheus's target; also where other names are added."""
    given = _settings("api", services["api"], monkeypatch)["allowed_hosts"]
    scrapes = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text())
    (job,) = [one for one in scrapes["scrape_configs"] if one["job_name"] == "opsqueue-api"]
    targets = job["static_configs"][0]["targets"]

    assert targets == [one for one in targets if AllowedHosts(given).allow(one)]
    assert not AllowedHosts(given).allow("evil.example")


def test_programs_read_every_variable_that_they_are_given(
    services: dict[str, dict[str, Any]],
) -> None:
    """A mistyped OPSQUEUE_* would be ignored in silence."""
    for name, dockerfile in DOCKERFILES.items():
        (program,) = json.loads(last(name, "ENTRYPOINT"))
        image = set(re.findall(r"OPSQUEUE_\w+", dockerfile.read_text()))
        given = {key for key in services[name]["environment"] if key.startswith("OPSQUEUE_")}
        assert given | image <= _variables_of(program), name
    others = [service for name, service in services.items() if name not in DOCKERFILES]
    assert not [key for s in others for key in s.get("environment", {}) if "OPSQUEUE" in key]


def test_compose_reads_no_variable_that_a_program_reads_otherwise(
    template: dict[str, Any],
) -> None:
    """`${OPSQUEUE_X}` in the file is passed on as OPSQUEUE_X, or compose's alone."""
    text = json.dumps(template["services"])
    used = set(re.findall(r"\$\{(OPSQUEUE_\w+)", text))
    programs = _variables_of("opsqueue-api") | _variables_of("opsqueue-worker")

    assert COMPOSE_ONLY == used - programs
    for variable in used & programs:
        assert re.search(rf'"{variable}": "\$\{{{variable}:-\w*}}"', text)


def test_containers_get_longer_to_stop_than_the_programs_take(
    services: dict[str, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGKILL in the middle of a graceful end would cost chunks an attempt."""
    settings = _settings("worker", services["worker"], monkeypatch)

    # After its timeout the worker may take 5 s more to deliver reports.
    assert _seconds(services["worker"]["stop_grace_period"]) > settings["shutdown_timeout"] + 5
    assert _seconds(services["api"]["stop_grace_period"]) > GRACEFUL_S
    assert _seconds(services["redis"]["stop_grace_period"]) >= 30


@pytest.mark.parametrize("program", DOCKERFILES)
def test_signals_reach_the_process(program: str, services: dict[str, dict[str, Any]]) -> None:
    """Exec form, no shell between; in the stack under an init, which loses none at the start."""
    assert [f"opsqueue-{program}"] == json.loads(last(program, "ENTRYPOINT"))
    assert services[program]["entrypoint"] is None
    assert services[program]["init"]
