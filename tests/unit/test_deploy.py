"""The container files: valid by their schemas, and about this service as it is."""

import json
import re
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml
from django.core.management import get_commands
from django.test import Client
from django.urls import resolve
from prometheus_client import CollectorRegistry, generate_latest

from generation.metrics.collector import ServiceCollector
from generation.models import Generation
from imagegen_project import __version__, env
from imagegen_project.common.counters import PROCESS_REGISTRY
from imagegen_project.server.gate import LIVENESS_PATH
from scripts.settings import SOURCE, settings_read

REPOSITORY = Path(__file__).resolve().parents[2]
KUBERNETES = REPOSITORY / "deploy" / "kubernetes"
DOCKERFILE = (REPOSITORY / "Dockerfile").read_text()
USER = "10001"


def secret_variables() -> set[str]:
    """The variables that can be files."""
    source = (REPOSITORY / "imagegen_project" / "env.py").read_text()
    return {f"{name}_FILE" for name in re.findall(r'_secret\("([A-Z0-9_]+)"\)', source)}


KNOWN = {setting.name for setting in settings_read(SOURCE.read_text())} | secret_variables()


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    """The Compose file, its merge keys resolved."""
    loaded: dict[str, Any] = yaml.safe_load((REPOSITORY / "docker-compose.yml").read_text())
    return loaded


def test_settings_have_one_place(compose: dict[str, Any]) -> None:
    """What Compose sets itself is where things are and what is secret; the rest comes from one file."""
    for name, service in own(compose).items():
        assert service["env_file"] == [{"path": "imagegen.env", "required": False}], name
        assert not [value for value in service["environment"].values() if "${" in value], name
    for ignoring, entry in ((".gitignore", "/imagegen.env"), (".dockerignore", "imagegen.env")):
        assert entry in (REPOSITORY / ignoring).read_text().split()


def own(compose: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The services that run this project's images."""
    return {name: service for name, service in compose["services"].items() if "build" in service}


def test_compose_is_valid(compose: dict[str, Any]) -> None:
    """By the Compose specification's schema."""
    import jsonschema  # it reads grammars for seconds, in each process of a run

    schema = json.loads((files("check_jsonschema") / "builtin_schemas/vendor/compose-spec.json").read_text())
    jsonschema.validate(compose, schema)


def test_compose_names_what_exists(compose: dict[str, Any]) -> None:
    """Variables, secrets, volumes, services, targets and commands."""
    targets = set(re.findall(r"^FROM \S+ AS (\S+)$", DOCKERFILE, flags=re.MULTILINE))
    for name, service in own(compose).items():
        assert set(service["environment"]) <= KNOWN, name
        assert service["build"]["target"] in targets, name
        assert set(service["depends_on"]) <= set(compose["services"]), name
        if "command" in service:
            assert service["command"][2] in get_commands(), name
    for name, service in compose["services"].items():
        assert set(service.get("secrets", [])) <= set(compose["secrets"]), name
        named = {volume.split(":")[0] for volume in service.get("volumes", [])}
        assert {volume for volume in named if not volume.startswith("./")} <= set(compose["volumes"]), name
        for path in (volume for volume in named if volume.startswith("./")):
            assert (REPOSITORY / path).exists(), path


def test_every_part_of_the_service_is_composed(compose: dict[str, Any]) -> None:
    """With a GPU by default, without one on request."""
    commands = {service["command"][2] for service in own(compose).values() if "command" in service}
    assert commands == {"migrate", "task_worker", "webhook_worker"}
    [device] = compose["services"]["worker"]["deploy"]["resources"]["reservations"]["devices"]
    assert (device["driver"], device["capabilities"]) == ("nvidia", ["gpu"])
    assert compose["services"]["worker-cpu"]["profiles"] == ["cpu"]
    assert "deploy" not in compose["services"]["worker-cpu"]
    assert {"models_cache", "hf_cache", "logs", "media", "pgdata"} <= set(compose["volumes"])


def test_nothing_composed_fills_the_host(compose: dict[str, Any]) -> None:
    """Neither what containers print, nor what clients upload, nor log files of containers that were made anew."""
    for name, service in compose["services"].items():
        assert int(service["logging"]["options"]["max-file"]) > 0, name
    for name, service in own(compose).items():
        assert all("size=" in mounted for mounted in service["tmpfs"]), name
        assert name in ("web", "worker", "worker-cpu") or service["hostname"] == name


def test_composed_containers_are_confined(compose: dict[str, Any]) -> None:
    """A root file system that cannot be written, no capability, no new privilege, no secret in a variable."""
    for name, service in own(compose).items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert not secret_variables() & {f"{variable}_FILE" for variable in service["environment"]} - {
            "DATABASE_URL_FILE",
            "REDIS_URL_FILE",
        }, name
    for secret in compose["secrets"].values():
        assert secret["file"].startswith("./secrets/")


@pytest.mark.parametrize("name", ["worker", "worker-cpu"])
def test_a_composed_worker_may_end_its_job(compose: dict[str, Any], name: str) -> None:
    """It is killed well after its own grace is over."""
    service = compose["services"][name]
    assert int(service["stop_grace_period"].rstrip("s")) >= int(service["environment"]["WORKER_GRACE_S"]) + 15


def test_a_web_process_may_finish_its_answers(compose: dict[str, Any]) -> None:
    """It is killed well after its own grace is over, which begins when its proxies had time to forget it."""
    stop = compose["services"]["web"]["stop_grace_period"]
    assert float(stop.rstrip("s")) >= env.WEB_GRACE_S + 5
    [web] = [workload for workload in WORKLOADS if workload["metadata"]["name"] == "web"]
    pod = web["spec"]["template"]["spec"]
    _, pause = pod["containers"][0]["lifecycle"]["preStop"]["exec"]["command"]
    assert pod["terminationGracePeriodSeconds"] >= float(pause) + env.WEB_GRACE_S + 5


def test_the_image_is_confined() -> None:
    """It runs as an ordinary user, from a base that can be chosen; nothing is built where it runs."""
    stages = dict(
        re.findall(r"^FROM \S+ AS (\S+)\n(.*?)(?=^FROM |\Z)", DOCKERFILE, flags=re.MULTILINE | re.DOTALL)
    )
    assert f"USER {USER}:{USER}" in stages["runtime"]
    assert "tini" in stages["runtime"]
    for name in ("web", "worker"):
        assert "USER" not in stages[name]
        assert "RUN" not in stages[name]
        assert "HEALTHCHECK" in stages[name]
    assert not re.search(r"^(ENV|ARG) \S*(SECRET|TOKEN|PASSWORD)", DOCKERFILE, flags=re.MULTILINE)
    ignored = (REPOSITORY / ".dockerignore").read_text().split()
    assert {".env", "secrets/", ".git/", ".imagegen/"} <= set(ignored)


def test_the_image_is_made_of_what_is_there() -> None:
    """Each COPY finds its sources, in the repository or in an earlier stage, and nothing of them is ignored."""
    stages = set(re.findall(r"^FROM \S+ AS (\S+)$", DOCKERFILE, flags=re.MULTILINE))
    assert {"web", "worker"} <= stages
    ignored = set((REPOSITORY / ".dockerignore").read_text().split())
    for line in re.findall(r"^COPY (.*)$", DOCKERFILE, flags=re.MULTILINE):
        *sources, _ = line.split()
        if sources[0].startswith("--from="):
            assert sources[0].removeprefix("--from=") in stages, line
            continue
        for source in sources:
            assert (REPOSITORY / source).exists(), line
            assert not {source.removeprefix("./"), f"{source.removeprefix('./')}/"} & ignored, line


def test_the_image_holds_the_whole_project() -> None:
    """Every package that is imported, and this version's number."""
    build_app = DOCKERFILE.split(" AS build-app\n")[1].split("\nFROM ")[0]
    copied = set(re.findall(r"^COPY (\w+) \./", build_app, flags=re.MULTILINE))
    linted = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]["importlinter"]
    assert set(linted["root_packages"]) <= copied
    assert f"ARG VERSION={__version__}\n" in DOCKERFILE
    assert tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["version"] == __version__


def test_images_are_made_from_locks_and_list_what_they_hold() -> None:
    """Wheels by hash; the bill of materials is that of the environment that the image gets."""
    stages = dict(
        re.findall(r"^FROM \S+ AS (\S+)\n(.*?)(?=^FROM |\Z)", DOCKERFILE, flags=re.MULTILINE | re.DOTALL)
    )
    for name in ("web", "worker"):
        assert f"/build/{name}.lock" in stages[f"build-{name}"]
        assert "--only-binary :all:" in stages[f"build-{name}"]
        assert "-m cyclonedx_py environment" in stages[f"sbom-{name}"]
        assert f"FROM build-{name} AS sbom-{name}\n" in DOCKERFILE
        assert f"COPY --from=sbom-{name} /build/sbom.cdx.json /app/\n" in stages[name]


def test_images_check_their_own_health(compose: dict[str, Any]) -> None:
    """The web's check asks a route that exists, on the port it opens; the worker's is a command."""
    [route] = re.findall(r"http://127\.0\.0\.1:8000(/\S+?)'", DOCKERFILE)
    assert LIVENESS_PATH.fullmatch(route) or resolve(route)
    assert "EXPOSE 8000" in DOCKERFILE
    commands = set(re.findall(r'^ *CMD \["python", "manage\.py", "(\w+)"', DOCKERFILE, flags=re.MULTILINE))
    assert commands == {"worker_alive", "gpu_worker", "web"}
    assert commands <= set(get_commands())
    assert [port.rpartition(":")[2] for port in own(compose)["web"]["ports"]] == ["8000"]


def documents() -> Iterator[tuple[str, dict[str, Any]]]:
    """Every manifest, with its file's name."""
    kustomization = yaml.safe_load((KUBERNETES / "kustomization.yaml").read_text())
    for name in kustomization["resources"]:
        for document in yaml.safe_load_all((KUBERNETES / name).read_text()):
            yield name, document


DOCUMENTS = list(documents())
WORKLOADS = [document for _, document in DOCUMENTS if "template" in document.get("spec", {})]
SETTINGS = dict(line.split("=", 1) for line in (KUBERNETES / "imagegen.env").read_text().split())


def kubernetes_check(document: dict[str, Any]) -> None:
    """Raises what Kubernetes's own schemas say against a document; unknown fields count as errors."""
    import kubernetes_validate  # it reads grammars for seconds, in each process of a run

    kubernetes_validate.validate(document, "1.31", strict=True)


@pytest.mark.parametrize(
    "document",
    [document for _, document in DOCUMENTS if "keda" not in document["apiVersion"]],
    ids=lambda document: f"{document['kind']}-{document['metadata']['name']}",
)
def test_manifests_are_valid(document: dict[str, Any]) -> None:
    """As they stand in the repository."""
    kubernetes_check(document)


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed")
def test_the_manifests_build() -> None:
    """As `kubectl apply -k` builds them: with the settings' own name wherever they are used."""
    done = subprocess.run(
        ["kubectl", "kustomize", str(KUBERNETES)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    built = list(yaml.safe_load_all(done.stdout))
    assert len(built) == len(DOCUMENTS) + 1
    [settings] = [document["metadata"]["name"] for document in built if document["kind"] == "ConfigMap"]
    used = set(re.findall(r"configMapRef:\s+name: (\S+)", done.stdout))
    assert used == {settings}


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed")
def test_models_can_lie_on_the_nodes(tmp_path: Path) -> None:
    """The worker and the task worker beside it share the node's disk, and adapters with everybody."""
    shutil.copytree(KUBERNETES, tmp_path / "base")
    overlay = {"resources": ["base"], "components": ["base/components/node-models"]}
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(overlay))
    done = subprocess.run(
        ["kubectl", "kustomize", str(tmp_path)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    built = list(yaml.safe_load_all(done.stdout))
    [worker] = [
        document
        for document in built
        if (document["kind"], document["metadata"]["name"]) == ("Deployment", "worker")
    ]
    kubernetes_check(worker)
    pod = worker["spec"]["template"]["spec"]
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    assert volumes["models"] == {
        "name": "models",
        "hostPath": {"path": "/var/lib/imagegen/models", "type": "Directory"},
    }
    [namespace] = [document for document in built if document["kind"] == "Namespace"]
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "privileged"
    assert volumes["adapters"]["persistentVolumeClaim"] == {"claimName": "models"}
    assert [container["name"] for container in pod["containers"]] == ["worker", "copies"]
    for container in (*pod["containers"], *pod["initContainers"]):
        mounts = {
            mount["mountPath"]: (mount["name"], mount.get("subPath")) for mount in container["volumeMounts"]
        }
        assert mounts["/data/models"] == ("models", None)
        assert mounts["/data/models/loras"] == ("adapters", "loras")


def test_every_manifest_is_applied() -> None:
    listed = {name for name, _ in DOCUMENTS} | {"kustomization.yaml"}
    assert {path.name for path in KUBERNETES.glob("*.yaml")} == listed


@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda workload: workload["metadata"]["name"])
def test_pods_are_confined_and_complete(workload: dict[str, Any]) -> None:
    """They run as the image's user, mount what they declare, and start what exists."""
    pod = workload["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert str(pod["securityContext"]["runAsUser"]) == USER
    declared = {volume["name"] for volume in pod["volumes"]}
    for container in [*pod.get("initContainers", []), *pod["containers"]]:
        assert {mount["name"] for mount in container["volumeMounts"]} == declared
        context = container["securityContext"]
        assert context["readOnlyRootFilesystem"] is True
        assert context["allowPrivilegeEscalation"] is False
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert container["args"][2] in get_commands()
        assert {"memory"} <= set(container["resources"]["limits"])
    if workload["kind"] == "Deployment":
        labels = workload["spec"]["template"]["metadata"]["labels"]
        assert workload["spec"]["selector"]["matchLabels"].items() <= labels.items()
        assert "migrations" in pod["initContainers"][0]["args"]


def test_probes_ask_routes_that_exist() -> None:
    probes = [
        container[kind]["httpGet"]["path"]
        for workload in WORKLOADS
        for container in workload["spec"]["template"]["spec"]["containers"]
        for kind in ("readinessProbe", "livenessProbe")
        if "httpGet" in container.get(kind, {})
    ]
    assert len(probes) == 2
    assert all(LIVENESS_PATH.fullmatch(path) or resolve(path) for path in probes)


def test_a_rollout_of_workers_needs_no_free_gpu() -> None:
    """Where all are taken it would wait for ever for the next worker to start."""
    [worker] = [workload for workload in WORKLOADS if workload["metadata"]["name"] == "worker"]
    assert worker["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"] == 1


def test_a_pod_of_a_worker_may_end_its_job() -> None:
    [worker] = [workload for workload in WORKLOADS if workload["metadata"]["name"] == "worker"]
    grace = worker["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
    assert grace >= int(SETTINGS["WORKER_GRACE_S"]) + 15


def test_the_settings_of_kubernetes_exist() -> None:
    """And their secrets are those that the instructions make."""
    assert set(SETTINGS) <= KNOWN
    made = set(re.findall(r"--from-literal=(\w+)=", (KUBERNETES / "README.md").read_text()))
    files_used = {Path(value).name for name, value in SETTINGS.items() if name.endswith("_FILE")}
    assert files_used == made


def test_workers_are_scaled_by_the_queue() -> None:
    """KEDA asks the table that there is."""
    [scaled] = [document for _, document in DOCUMENTS if document["kind"] == "ScaledObject"]
    names = [workload["metadata"]["name"] for workload in WORKLOADS]
    assert scaled["spec"]["scaleTargetRef"]["name"] in names
    assert 0 <= scaled["spec"]["minReplicaCount"] < scaled["spec"]["maxReplicaCount"]
    behavior = scaled["spec"]["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
    [web] = [document for _, document in DOCUMENTS if document["kind"] == "HorizontalPodAutoscaler"]
    for rules in (behavior, web["spec"]["behavior"]):
        kubernetes_check(web | {"spec": web["spec"] | {"behavior": rules}})
        assert (
            rules["scaleDown"]["stabilizationWindowSeconds"]
            >= 300
            > rules["scaleUp"]["stabilizationWindowSeconds"]
        )
    [trigger] = scaled["spec"]["triggers"]
    assert trigger["type"] == "postgresql"
    wanted = {"host", "port", "userName", "dbName", "sslmode", "query", "targetQueryValue"}
    assert set(trigger["metadata"]) == wanted
    assert all(isinstance(value, str) for value in trigger["metadata"].values())
    address = urlsplit(SETTINGS["DATABASE_URL"])
    # From KEDA's own namespace a name of ours needs ours behind it.
    assert trigger["metadata"]["host"] == f"{address.hostname}.imagegen.svc"
    assert (trigger["metadata"]["userName"], trigger["metadata"]["dbName"]) == (
        address.username,
        address.path.lstrip("/"),
    )
    assert (
        f"FROM {Generation._meta.db_table} WHERE status IN ('queued', 'running')"
        in trigger["metadata"]["query"]
    )
    [authentication] = [document for _, document in DOCUMENTS if document["kind"] == "TriggerAuthentication"]
    assert trigger["authenticationRef"]["name"] == authentication["metadata"]["name"]
    [secret] = authentication["spec"]["secretTargetRef"]
    assert secret["parameter"] == "password"
    assert secret["key"] == Path(SETTINGS["DATABASE_PASSWORD_FILE"]).name


def exposed() -> set[str]:
    """The metrics that `/metrics` has, without their endings."""
    assert resolve("/metrics")  # what a web process measures is declared with its routes
    registry = CollectorRegistry()
    registry.register(ServiceCollector())
    registry.register(PROCESS_REGISTRY)
    names = re.findall(r"^# TYPE (\S+)", generate_latest(registry).decode(), flags=re.MULTILINE)
    return {*names, *(name.removesuffix("_total") for name in names)}


def test_the_dashboard_asks_for_metrics_that_exist(db: None) -> None:
    """Each expression names metrics of `/metrics`, and each panel the provisioned source."""
    metrics = exposed()
    folder = REPOSITORY / "deploy" / "monitoring" / "grafana"
    source = yaml.safe_load((folder / "provisioning" / "datasources" / "prometheus.yml").read_text())
    dashboard = json.loads((folder / "dashboards" / "imagegen.json").read_text())
    for panel in dashboard["panels"]:
        assert panel["datasource"]["uid"] == source["datasources"][0]["uid"]
        for target in panel["targets"]:
            asked = set(re.findall(r"\b(?:imagegen|process)_\w+", target["expr"]))
            known = {re.sub(r"_(bucket|sum|count)$", "", name) for name in asked}
            assert known <= metrics | {"imagegen"}, target["expr"]
            # The greatest of what web processes say alike; over other labels it would hide series.
            assert "max by" not in target["expr"]


def test_health_stays_green_without_a_worker(client: Client, db: None) -> None:
    """As KEDA leaves it with `minReplicaCount: 0`: no probe asks for a worker, and the trigger has no threshold."""
    folder = KUBERNETES / "components" / "scale-to-zero"
    [patch] = yaml.safe_load((folder / "kustomization.yaml").read_text())["patches"]
    [scaled] = [document for _, document in DOCUMENTS if document["kind"] == patch["target"]["kind"]]
    assert patch["target"]["name"] == scaled["metadata"]["name"]
    assert yaml.safe_load(patch["patch"]) == [{"op": "replace", "path": "/spec/minReplicaCount", "value": 0}]
    assert "activationTargetQueryValue" not in scaled["spec"]["triggers"][0]["metadata"]
    assert "worker=1" not in "".join(path.read_text() for path in KUBERNETES.rglob("*.yaml"))
    ready = client.get("/health/ready")
    assert (ready.status_code, ready.json()["workers"]) == (200, 0)


PROMTOOL = shutil.which("promtool")


@pytest.mark.skipif(PROMTOOL is None, reason="promtool is not installed (Debian's package prometheus)")
@pytest.mark.parametrize("command", [["check", "rules", "alerts.yml"], ["test", "rules", "alerts_test.yml"]])
def test_alerts_are_valid_and_fire_when_they_should(command: list[str]) -> None:
    """By Prometheus's own tool: every rule has a case in which it fires."""
    folder = REPOSITORY / "deploy" / "monitoring"
    done = subprocess.run(
        [str(PROMTOOL), *command], cwd=folder, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_is_about_metrics_that_exist_and_is_tested(db: None) -> None:
    folder = REPOSITORY / "deploy" / "monitoring"
    [group] = yaml.safe_load((folder / "alerts.yml").read_text())["groups"]
    fired = {
        case["alertname"]
        for test in yaml.safe_load((folder / "alerts_test.yml").read_text())["tests"]
        for case in test["alert_rule_test"]
        if case.get("exp_alerts")
    }
    known = exposed()
    for rule in group["rules"]:
        asked = set(re.findall(r"\bimagegen_\w+", rule["expr"]))
        assert {re.sub(r"_(bucket|sum|count|total)$", "", name) for name in asked} <= known
        assert rule["annotations"].keys() == {"summary", "remedy"}
    assert {rule["alert"] for rule in group["rules"]} == fired
    settings = yaml.safe_load((folder / "prometheus.yml").read_text())
    assert settings["rule_files"] == ["alerts.yml"]


def test_prometheus_scrapes_what_is_served(compose: dict[str, Any]) -> None:
    settings = yaml.safe_load((REPOSITORY / "deploy" / "monitoring" / "prometheus.yml").read_text())
    [job] = settings["scrape_configs"]
    assert resolve(job["metrics_path"]).url_name == "metrics"
    secret = Path(job["authorization"]["credentials_file"])
    assert secret.name in compose["services"]["prometheus"]["secrets"]
    assert own(compose)["web"]["environment"]["METRICS_TOKEN_FILE"] == str(secret)
    assert job["dns_sd_configs"][0]["names"] == ["web"]


def test_make_lists_what_an_operator_needs() -> None:
    targets = set(re.findall(r"^([a-z-]+):.*## ", (REPOSITORY / "Makefile").read_text(), flags=re.MULTILINE))
    wanted = (
        "help install dev demo test lint format typecheck check bench chaos build run logs stop clean image-size "
        "lock check-locks audit sbom pin-images"
    )
    assert set(wanted.split()) <= targets
