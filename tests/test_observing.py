"""Alerts and the dashboard use only existing metrics, and Prometheus accepts them."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.dockerfiles import ROOT, last
from tests.served_metrics import documented

DEPLOY = ROOT / "deploy"
ALERTS = DEPLOY / "prometheus" / "alerts.yml"
DASHBOARD = DEPLOY / "grafana" / "dashboards" / "opsqueue.json"


def rules() -> list[dict[str, Any]]:
    (group,) = yaml.safe_load(ALERTS.read_text())["groups"]
    found: list[dict[str, Any]] = group["rules"]
    return found


def queries() -> list[str]:
    panels = json.loads(DASHBOARD.read_text())["panels"]
    return [target["expr"] for panel in panels for target in panel.get("targets", [])]


def service(name: str) -> dict[str, Any]:
    """Of docker-compose.yml, its ${VARIABLES} in place."""
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    found: dict[str, Any] = services[name]
    return found


def scrapes() -> list[dict[str, Any]]:
    config = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())
    found: list[dict[str, Any]] = config["scrape_configs"]
    return found


def known() -> dict[str, frozenset[str]]:
    """Each series of docs/metrics.md, whose tables are held to what is served, with its labels."""
    found = {"up": frozenset[str]()}
    for name, (kind, labels) in {
        **documented("Metrics of the API"),
        **documented("Metrics of a worker"),
    }.items():
        endings = ("_bucket", "_count", "_sum") if kind == "histogram" else ("",)
        found.update({f"{name}{ending}": labels for ending in endings})
    return found


def test_alerts_and_dashboard_ask_for_metrics_that_exist() -> None:
    """In queries and in the variable that lists the queues."""
    texts = [*(rule["expr"] for rule in rules()), DASHBOARD.read_text()]
    asked = {name for text in texts for name in re.findall(r"\bopsqueue_\w+", text)}

    assert len(asked) > 20
    assert asked <= set(known())


def test_alerts_and_dashboard_choose_by_labels_that_the_metrics_have() -> None:
    """A label that is not there chooses nothing, and nobody is told."""
    chosen = [
        (name, label)
        for query in [*queries(), *(rule["expr"] for rule in rules())]
        for name, labels in re.findall(r"(\w+)\{([^}]*)\}", query)
        for label in re.findall(r"(\w+)=", labels)
    ]
    grouped = [
        (name, label.strip())
        for query in [*queries(), *(rule["expr"] for rule in rules())]
        for labels, inner in re.findall(r"by \(([^)]*)\) \(((?:[^()]|\([^()]*\))*)\)", query)
        for name in re.findall(r"\bopsqueue_\w+", inner)
        for label in labels.split(",")
    ]

    assert len(chosen) > 20
    assert len(grouped) > 20
    for name, label in (*chosen, *grouped):
        assert label in known()[name] | {"instance", "job", "le"}, (name, label)


def test_every_alert_is_tested_both_ways() -> None:
    """Once where it fires, once where it is silent."""
    cases = [
        case
        for test in yaml.safe_load((ALERTS.parent / "alerts.test.yml").read_text())["tests"]
        for case in test["alert_rule_test"]
    ]
    alerts = {rule["alert"] for rule in rules()}

    assert alerts == {case["alertname"] for case in cases if case["exp_alerts"]}
    assert alerts == {case["alertname"] for case in cases if not case["exp_alerts"]}


def test_every_alert_is_explained_in_the_runbook() -> None:
    """And each explanation is of an alert."""
    text = (ROOT / "docs" / "operations.md").read_text()
    headings = re.findall(r"^### (Opsqueue\w+)$", text, re.MULTILINE)

    assert sorted(headings) == sorted(rule["alert"] for rule in rules())
    for rule in rules():
        link = f"docs/operations.md#{rule['alert'].lower()}"
        assert rule["annotations"]["runbook_url"] == link
        assert rule["labels"]["severity"] in ("warning", "critical")


def promtool(*arguments: str) -> None:
    """Prometheus's own reading."""
    program = shutil.which("promtool")
    if program is None:
        pytest.skip("promtool is not installed (Debian: prometheus)")
    ran = subprocess.run(
        [program, *arguments], cwd=ALERTS.parent, check=False, capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_prometheus_reads_its_files() -> None:
    """Configuration and rules."""
    promtool("check", "config", "--syntax-only", "prometheus.yml")
    promtool("check", "rules", "--lint=all", "--lint-fatal", ALERTS.name)


def test_alerts_do_what_their_tests_say() -> None:
    """By Prometheus's own evaluation."""
    promtool("test", "rules", "alerts.test.yml")


def test_the_dashboards_queries_are_ones_that_prometheus_reads(tmp_path: Path) -> None:
    """With what Grafana puts in for its variables."""
    rules = [
        {
            "record": f"q:{number}:q",
            "expr": query.replace("$__rate_interval", "1m").replace("$queue", ".*"),
        }
        for number, query in enumerate(queries())
    ]
    (tmp_path / "rules.yml").write_text(
        json.dumps({"groups": [{"name": "dashboard", "rules": rules}]})
    )

    assert not [rule for rule in rules if "$" in rule["expr"]]
    promtool("check", "rules", str(tmp_path / "rules.yml"))


def test_prometheus_scrapes_where_the_stack_answers() -> None:
    """API and workers by their names and ports."""
    by_api, by_worker = scrapes()

    assert by_api["static_configs"] == [{"targets": [f"api:{last('api', 'EXPOSE')}"]}]
    (found,) = by_worker["dns_sd_configs"]
    port = service("worker")["environment"]["OPSQUEUE_WORKER_METRICS_PORT"]
    assert (found["names"], str(found["port"])) == (["worker"], port)


def test_prometheus_finds_the_token_of_the_env_file(tmp_path: Path) -> None:
    """Its container's own command, run here with a program that shows what it was started with."""
    by_api, _ = scrapes()
    path = by_api["authorization"]["credentials_file"]
    (tmp_path / "prometheus").write_text(f'#!/bin/sh\nenv\ncat "{tmp_path}{path}"\n')
    (tmp_path / "prometheus").chmod(0o755)
    (tmp_path / path[1:]).parent.mkdir()
    (text,) = service("prometheus")["command"]
    command = text.replace("$$", "$").replace(path, f"{tmp_path}{path}")

    ran = subprocess.run(
        [*service("prometheus")["entrypoint"], command],
        env={"PATH": f"{tmp_path}:{os.defpath}", "METRICS_TOKEN": "a 100%s token"},
        check=True,
        capture_output=True,
        text=True,
    )

    assert ran.stdout.splitlines()[-1] == "a 100%s token"
    assert "METRICS_TOKEN" not in ran.stdout
    assert (tmp_path / path[1:]).stat().st_mode & 0o077 == 0


def test_grafana_finds_its_dashboard_and_its_data() -> None:
    """The folders that compose mounts, the names that the files give each other."""
    compose = service("grafana")
    targets = dict(volume.split(":")[:2] for volume in compose["volumes"])
    provider = yaml.safe_load(
        (DEPLOY / "grafana/provisioning/dashboards/opsqueue.yml").read_text()
    )["providers"][0]
    (source,) = yaml.safe_load(
        (DEPLOY / "grafana/provisioning/datasources/prometheus.yml").read_text()
    )["datasources"]
    dashboard = json.loads(DASHBOARD.read_text())
    by_type, of_queues = dashboard["templating"]["list"]
    panels = [panel for panel in dashboard["panels"] if panel["type"] != "row"]

    folder = targets["./deploy/grafana/dashboards"]
    assert provider["options"]["path"] == folder
    home = compose["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert home == f"{folder}/{DASHBOARD.name}"
    assert by_type["query"] == source["type"]
    for one in (of_queues, *panels):
        assert one["datasource"] == {"type": source["type"], "uid": f"${{{by_type['name']}}}"}
