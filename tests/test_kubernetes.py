"""deploy/kubernetes: manifests are valid and name only existing options and variables."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import redis
import yaml
from falcon import testing

from opsqueue.exceptions import InvalidArgumentError
from opsqueue.store.memory import MemoryStore
from opsqueue_api.app import create_app
from opsqueue_api.cli import main as api
from opsqueue_api.http.hosts import AllowedHosts
from opsqueue_api.http.settings import Settings
from opsqueue_api.http.tokens import Scope, parse_tokens
from opsqueue_api.server import GRACEFUL_S
from opsqueue_worker.cli import main as worker
from tests.dockerfiles import ROOT, last
from tests.documents import blocks_of

FOLDER = ROOT / "deploy" / "kubernetes"
MANIFESTS = sorted(FOLDER.glob("*.yaml"))
VERSIONS = ("1.31", "1.37")
"""The oldest version with all used features, and the newest that the validator knows."""
FOREIGN = {"ScaledObject", "TriggerAuthentication", "PodMonitor"}
"""Kinds of KEDA and Prometheus's operator, whose schemas the validator lacks."""

SECRET = "0123456789abcdef"  # noqa: S105  of an API that lives in the test
Manifest = dict[str, Any]


def manifests() -> list[Manifest]:
    return [one for path in MANIFESTS for one in yaml.safe_load_all(path.read_text())]


def manifest(kind: str, name: str) -> Manifest:
    (found,) = (
        one for one in manifests() if one["kind"] == kind and one["metadata"]["name"] == name
    )
    return found


def pod(name: str) -> Manifest:
    found: Manifest = manifest("Deployment", name)["spec"]["template"]["spec"]
    return found


def container(name: str) -> Manifest:
    (found,) = pod(name)["containers"]
    return dict(found)


def variables(name: str) -> dict[str, str]:
    """Return the environment of a program: all values of its secrets."""
    return {
        key: value
        for source in container(name)["envFrom"]
        for key, value in manifest("Secret", source["secretRef"]["name"])["stringData"].items()
    }


def options(name: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Read by the program's own parser."""
    for variable, value in variables(name).items():
        monkeypatch.setenv(variable, value)
    program = {"opsqueue-api": api, "opsqueue-worker": worker}[name]
    with program.make_context(name, list(container(name)["args"])) as context:
        return dict(context.params)


@pytest.fixture
def http(fake_client: redis.Redis) -> testing.TestClient:
    """An API with a token of scope metrics."""
    tokens = parse_tokens(f"metrics:{SECRET}:{Scope.METRICS}")
    return testing.TestClient(create_app(fake_client, MemoryStore(), tokens=tokens))


@pytest.mark.parametrize("version", VERSIONS)
def test_the_manifests_are_ones_that_kubernetes_takes(version: str) -> None:
    """By its own schemas, without a field that they do not have."""
    own = [one for one in manifests() if one["kind"] not in {*FOREIGN, "Kustomization"}]

    assert len(own) > 8
    for one in own:
        kubernetes_validate.validate(one, version, strict=True)


def test_kustomize_makes_one_of_them() -> None:
    """By kubectl, where it is installed; the secrets are not among them."""
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("kubectl is not installed (Debian: kubernetes-client)")

    ran = subprocess.run(
        [kubectl, "kustomize", str(FOLDER)], check=True, capture_output=True, text=True
    )

    made = list(yaml.safe_load_all(ran.stdout))
    kinds = [one["kind"] for one in manifests() if one["kind"] not in ("Secret", "Kustomization")]
    assert sorted(kinds) == sorted(one["kind"] for one in made)
    assert {"opsqueue"} == {one["metadata"]["namespace"] for one in made}
    for one in made:
        if one["kind"] == "Deployment":
            (found,) = one["spec"]["template"]["spec"]["containers"]
            assert found["image"].startswith("registry.example.com/")


def test_the_kustomization_of_the_page_fits_the_manifests(tmp_path: Path) -> None:
    """By kubectl: what the page replaces is what it says."""
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("kubectl is not installed (Debian: kubernetes-client)")
    (block,) = (b.text for b in blocks_of(ROOT / "docs" / "kubernetes.md") if b.kind == "yaml")
    (tmp_path / "opsqueue").symlink_to(ROOT)
    (tmp_path / "my-opsqueue").mkdir()
    (tmp_path / "my-opsqueue" / "kustomization.yaml").write_text(block)

    ran = subprocess.run(
        [kubectl, "kustomize", "my-opsqueue"],
        cwd=tmp_path,
        check=False,
        capture_output=True,
        text=True,
    )

    assert ran.returncode == 0, ran.stderr
    made = {(one["kind"], one["metadata"]["name"]): one for one in yaml.safe_load_all(ran.stdout)}
    (found,) = made["Deployment", "opsqueue-worker"]["spec"]["template"]["spec"]["containers"]
    assert found["image"] == "registry.example.com/my-worker:1"
    assert ["tasks:app", "--concurrency=4"] == found["args"][:2]
    assert ["opsqueue-worker", "tasks:app", "--check"] == found["readinessProbe"]["exec"]["command"]
    assert found["resources"]["requests"]["cpu"] == "4"
    (trigger,) = made["ScaledObject", "opsqueue-worker"]["spec"]["triggers"]
    assert trigger["metadata"]["url"].endswith("/v1/queues/emails/scaling")


def test_what_the_kustomization_names_is_there() -> None:
    """All but the example of the secrets."""
    (kustomization,) = (one for one in manifests() if one["kind"] == "Kustomization")
    resources = {FOLDER / name for name in kustomization["resources"]}

    left: set[Path] = set(MANIFESTS) - resources
    assert {"kustomization.yaml", "secret.example.yaml"} == {path.name for path in left}


@pytest.mark.parametrize("name", ["opsqueue-api", "opsqueue-worker"])
def test_the_programs_take_their_arguments_and_variables(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each variable is an option's, so none is ignored in silence."""
    given = options(name, monkeypatch)

    assert {"OPSQUEUE_REDIS_URL", "OPSQUEUE_STORE_URL"} <= set(variables(name))
    assert set(variables(name).values()) <= set(given.values())


def test_nobody_can_use_the_examples_secrets() -> None:
    """The API refuses them, so that they do not go live by mistake."""
    with pytest.raises(InvalidArgumentError, match="token 'web'"):
        parse_tokens(variables("opsqueue-api")["OPSQUEUE_API_TOKENS"])


def test_only_the_api_knows_its_tokens() -> None:
    """A worker runs anybody's handlers."""
    assert "OPSQUEUE_API_TOKENS" in variables("opsqueue-api")
    assert "OPSQUEUE_API_TOKENS" not in variables("opsqueue-worker")


def test_ports_are_those_that_the_programs_listen_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the API its default, which its image leaves as it is."""
    metrics_port = options("opsqueue-worker", monkeypatch)["metrics_port"]
    api_port = Settings(redis_url="", store_url="").port

    assert container("opsqueue-worker")["ports"] == [
        {"name": "metrics", "containerPort": metrics_port}
    ]
    assert container("opsqueue-api")["ports"] == [{"name": "http", "containerPort": api_port}]
    assert last("api", "EXPOSE") == str(api_port)
    (served,) = manifest("Service", "opsqueue-api")["spec"]["ports"]
    assert (served["port"], served["targetPort"]) == (api_port, "http")


def test_probes_ask_where_the_programs_answer(http: testing.TestClient) -> None:
    """Without a token the API; the worker by its own option, for the app that it runs."""
    for probe in ("readinessProbe", "livenessProbe"):
        asked = container("opsqueue-api")[probe]["httpGet"]
        assert http.simulate_get(asked["path"]).status_code == 200
        assert asked["port"] == "http"

    found = container("opsqueue-worker")
    program, *arguments = found["readinessProbe"]["exec"]["command"]
    with worker.make_context(program, list(arguments)) as context:
        assert (context.params["app"], context.params["check"]) == (found["args"][0], True)
    assert found["livenessProbe"]["httpGet"] == {"path": "/metrics", "port": "metrics"}


def test_pods_get_longer_to_stop_than_the_programs_take(monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGKILL in the middle of a graceful end would cost chunks an attempt."""
    shutdown_s = options("opsqueue-worker", monkeypatch)["shutdown_timeout"]
    _, before_s = container("opsqueue-api")["lifecycle"]["preStop"]["exec"]["command"]

    # After its timeout the worker may take 5 s more to deliver reports.
    assert pod("opsqueue-worker")["terminationGracePeriodSeconds"] > shutdown_s + 5
    assert pod("opsqueue-api")["terminationGracePeriodSeconds"] > GRACEFUL_S + int(before_s)


@pytest.mark.parametrize("name", ["opsqueue-api", "opsqueue-worker"])
def test_pods_have_no_rights_that_they_do_not_need(name: str) -> None:
    """Not root, nothing to write but /tmp, no capability, no token of Kubernetes."""
    account = manifest("ServiceAccount", pod(name)["serviceAccountName"])

    assert not account["automountServiceAccountToken"]
    assert not pod(name)["automountServiceAccountToken"]
    assert pod(name)["securityContext"]["runAsNonRoot"]
    assert pod(name)["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container(name)["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert ["/tmp"] == [one["mountPath"] for one in container(name)["volumeMounts"]]  # noqa: S108


def test_whatever_selects_pods_finds_them() -> None:
    """Deployments, Service, disruption budgets and monitors, by the label of the pods."""
    labels = {
        one["metadata"]["name"]: one["spec"]["template"]["metadata"]["labels"]
        for one in manifests()
        if one["kind"] == "Deployment"
    }
    kinds = ("Deployment", "PodDisruptionBudget", "PodMonitor", "Service")
    selecting = [one for one in manifests() if one["kind"] in kinds]

    assert len(selecting) == 7
    for one in selecting:
        selector = one["spec"]["selector"]
        assert selector.get("matchLabels", selector) == labels[one["metadata"]["name"]]


def test_the_autoscaler_asks_where_the_api_answers(http: testing.TestClient) -> None:
    """With a token of scope metrics; what it is told to read is the number."""
    (trigger,) = manifest("ScaledObject", "opsqueue-worker")["spec"]["triggers"]
    (port,) = manifest("Service", "opsqueue-api")["spec"]["ports"]
    url = trigger["metadata"]["url"]
    host = f"http://opsqueue-api:{port['port']}"
    assert url.startswith(f"{host}/")

    answer = http.simulate_get(
        url.removeprefix(host), headers={"authorization": f"Bearer {SECRET}"}
    )

    assert answer.json[trigger["metadata"]["valueLocation"]] == 0
    assert trigger["metadata"]["authMode"] == "bearer"
    target = manifest("ScaledObject", "opsqueue-worker")["spec"]["scaleTargetRef"]["name"]
    assert "replicas" not in manifest("Deployment", target)["spec"]


def test_scaler_and_monitor_have_a_token_that_reads_metrics_only() -> None:
    """One that the API's own secret names, with this scope."""
    authentication = manifest("TriggerAuthentication", "opsqueue-metrics")["spec"]
    ((parameter, secret, key),) = (
        (one["parameter"], one["name"], one["key"]) for one in authentication["secretTargetRef"]
    )
    (endpoint,) = manifest("PodMonitor", "opsqueue-api")["spec"]["podMetricsEndpoints"]

    assert parameter == "token"
    assert endpoint["authorization"]["credentials"] == {"name": secret, "key": key}
    value = manifest("Secret", secret)["stringData"][key]
    tokens = variables("opsqueue-api")["OPSQUEUE_API_TOKENS"].split(";")
    assert f"metrics:{value}:{Scope.METRICS}" in tokens


def test_the_api_answers_to_every_name_of_its_service(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it has no tokens; with the namespace of the kustomization."""
    service = manifest("Service", "opsqueue-api")["metadata"]["name"]
    namespace = manifest_of_kustomization()["namespace"]
    given = options("opsqueue-api", monkeypatch)["allowed_hosts"]

    allowed = AllowedHosts(name for text in given for name in text.split(","))

    ends = ("", f".{namespace}", f".{namespace}.svc", f".{namespace}.svc.cluster.local")
    assert [] == [end for end in ends if not allowed.allow(f"{service}{end}:3999")]
    assert not allowed.allow("evil.example")


def manifest_of_kustomization() -> Manifest:
    found: Manifest = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())
    return found
