"""Deployments of several nodes, for Docker and Kubernetes: read, and held against the server and the image."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from engine import config as configuration
from engine.config import second_copies
from engine.web.routes import ROUTES
from tests.test_deployment import DRAIN_S, ROOT, dockerfile, last, seconds, settings_of

COMPOSE = ROOT / "tools" / "compose-cluster.yaml"
KUBERNETES = ROOT / "tools" / "kubernetes"
NODES = ("pacs-1", "pacs-2", "pacs-3")
IMAGE_ENVIRONMENT = {"FILMROOM_HTTP_HOST": "0.0.0.0", "FILMROOM_HTTP_PLAIN": "true"}
SECRETS = {"PGPASSWORD", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"}


@cache
def compose() -> dict[str, Any]:
    return dict(yaml.safe_load(COMPOSE.read_text()))


@cache
def resources() -> dict[tuple[str, str], Any]:
    """All that `kustomization.yaml` names, by kind and name."""
    names = yaml.safe_load((KUBERNETES / "kustomization.yaml").read_text())["resources"]
    assert {*names, "kustomization.yaml"} == {path.name for path in KUBERNETES.glob("*.yaml")}
    loaded = [each for name in names for each in yaml.safe_load_all((KUBERNETES / name).read_text())]
    return {(each["kind"], each["metadata"]["name"]): each for each in loaded}


def stateful_set() -> dict[str, Any]:
    return dict(resources()["StatefulSet", "pacs"]["spec"])


def pod() -> dict[str, Any]:
    return dict(stateful_set()["template"]["spec"])


def start(shell: list[str], script: str, node: str, folder: Path, *, fails: tuple[str, ...] = ()) -> list[str]:
    """The commands that a start line gives, with a `filmroom` that fails for the arguments `fails`."""
    program = folder / "filmroom"
    cases = "".join(f"'{arguments}') exit 1 ;;\n" for arguments in fails)
    program.write_text(f'#!/bin/sh\necho "$*"\ncase "$*" in\n{cases}esac\n')
    program.chmod(0o755)
    environment = {"PATH": f"{folder}:{os.environ['PATH']}", "FILMROOM_CLUSTER_NODE": node}
    done = subprocess.run([*shell, script], env=environment, capture_output=True, text=True, timeout=60)
    assert not done.stderr
    return [*done.stdout.splitlines(), str(done.returncode)]


JOIN, NEW, SERVE = "cluster join", "cluster join --new", "serve"


@pytest.mark.parametrize(
    ("fails", "first", "other"),
    [
        ((), [JOIN, SERVE, "0"], [JOIN, SERVE, "0"]),
        ((JOIN,), [JOIN, NEW, SERVE, "0"], [JOIN, "1"]),
        ((JOIN, NEW), [JOIN, NEW, "1"], [JOIN, "1"]),
    ],
    ids=["joined", "no archive", "no database"],
)
def test_a_node_joins_before_it_serves_and_only_the_first_makes_an_archive(
    fails: tuple[str, ...], first: list[str], other: list[str], tmp_path: Path
) -> None:
    for name in NODES:
        service = compose()["services"][name]
        (script,) = service["command"]
        expected = first if name == NODES[0] else other
        assert start(service["entrypoint"], script, name, tmp_path, fails=fails) == expected
    (init,) = pod()["initContainers"]
    (script,) = init["args"]
    (server,) = pod()["containers"]
    assert server["args"] == [SERVE] and "command" not in server
    for name, expected in (("pacs-0", first), ("pacs-1", other), ("pacs-10", other)):
        done = start(init["command"], script, name, tmp_path, fails=fails)
        assert done == [line for line in expected if line != SERVE]


def test_nodes_of_the_compose_file_differ_in_name_and_share_all_else() -> None:
    services = compose()["services"]
    environments = [services[name]["environment"] for name in NODES]
    for name, environment in zip(NODES, environments, strict=True):
        settings = settings_of({**environment, **IMAGE_ENVIRONMENT})
        second_copies.check_node(settings)
        assert (settings.cluster.node, settings.cluster.address) == (name, f"{name}:{settings.dicom_port}")
        assert settings.workers == services[name]["cpus"]
        assert services[name]["volumes"] == [f"{name}:{last('VOLUME')}"]
        assert [port.split(":")[-1] for port in services[name]["ports"]] == last("EXPOSE").split()
        assert services[name]["ports"][1].startswith("127.0.0.1:")
        (network,) = compose()["networks"]["default"]["ipam"]["config"]
        assert set(settings.http.allow) == {"127.0.0.0/8", network["gateway"]}
        assert environment.keys() > SECRETS
        assert all(environment[secret].endswith(":?}") for secret in SECRETS), "no secret is in the file"
    own = {"FILMROOM_CLUSTER_NODE", "FILMROOM_CLUSTER_ADDRESS"}
    shared = [{key: value for key, value in each.items() if key not in own} for each in environments]
    assert shared[0] == shared[1] == shared[2]
    published = [port for name in NODES for port in services[name]["ports"]]
    assert len({port.rpartition(":")[0] for port in published}) == len(published)
    assert set(compose()["volumes"]) == {*NODES, "database", "store"}


def test_nodes_of_the_compose_file_are_as_confined_as_a_single_server_and_wait_for_each_other() -> None:
    single = yaml.safe_load((ROOT / "tools" / "compose.yaml").read_text())["services"]["filmroom"]
    same = ["init", "read_only", "cap_drop", "security_opt", "ulimits", "stop_grace_period", "restart", "tmpfs"]
    services = compose()["services"]
    for name in NODES:
        assert {key: services[name][key] for key in same} == {key: single[key] for key in same}
        assert services[name]["image"] == single["image"]
        assert services[name]["mem_limit"] and services[name]["pids_limit"]
        assert "test" not in services[name]["healthcheck"], "the image's is used"
    assert services["pacs-1"]["build"] == single["build"]
    assert services["pacs-1"]["depends_on"] == {
        "database": {"condition": "service_healthy"},
        "bucket": {"condition": "service_completed_successfully"},
    }
    assert all(services[name]["depends_on"] == {"pacs-1": {"condition": "service_healthy"}} for name in NODES[1:])
    for name in ("database", "store"):
        assert services[name]["healthcheck"]["test"] and not services[name].get("ports"), "the nodes alone reach it"


def test_the_store_of_the_compose_file_is_that_of_the_nodes_and_syncs() -> None:
    store, bucket = compose()["services"]["store"], compose()["services"]["bucket"]
    settings = settings_of({**compose()["services"]["pacs-1"]["environment"], **IMAGE_ENVIRONMENT}).object_store
    name = settings.url.removeprefix("s3://").partition("/")[0]
    (script,) = bucket["command"]
    assert f"s3.bucket.create -name {name}\n" in script
    assert f"fs.configure -locationPrefix=/buckets/{name} -fsync -apply\n" in script
    assert store["image"] == bucket["image"] and "-s3" in store["command"]
    assert settings.endpoint == "http://store:8333" and ":8333/" in store["healthcheck"]["test"][-1]


def test_the_image_has_the_driver_of_the_database() -> None:
    locked = (ROOT / "tools" / "requirements.lock").read_text()
    assert {"psycopg", "psycopg-binary"} == set(re.findall(r"^(psycopg(?:-binary)?)==", locked, re.MULTILINE))
    (step,) = [arguments for name, arguments in dockerfile() if name == "RUN" and "psycopg" in arguments]
    program = re.search(r"awk '([^']*)'", step)
    assert program is not None
    done = subprocess.run(["awk", program[1]], input=locked, capture_output=True, text=True, check=True)
    lines = [line for line in done.stdout.splitlines() if not line.startswith((" ", "#"))]
    assert [line.partition("==")[0] for line in lines] == ["psycopg", "psycopg-binary"]
    assert done.stdout.count("--hash=") >= len(lines)


def test_the_configuration_of_the_pods_is_that_of_a_node() -> None:
    entries = pod()["containers"][0]["env"]
    environment = {entry["name"]: entry.get("value", "pacs-0") for entry in entries}
    assert pod()["initContainers"][0]["env"] == entries
    assert pod()["initContainers"][0]["volumeMounts"] == pod()["containers"][0]["volumeMounts"]
    ours = {name: value.replace("$(FILMROOM_CLUSTER_NODE)", "pacs-0") for name, value in environment.items()}
    assert environment.keys() == {"FILMROOM_CLUSTER_NODE", "FILMROOM_CLUSTER_ADDRESS", *SECRETS}
    assert all("secretKeyRef" in entry["valueFrom"] for entry in entries if entry["name"] in SECRETS)
    settings = configuration.load(KUBERNETES / "filmroom.toml", {**IMAGE_ENVIRONMENT, **ours}, {})
    second_copies.check_node(settings)
    assert settings.cluster.node == "pacs-0"
    assert settings.cluster.address == f"pacs-0.{stateful_set()['serviceName']}:{settings.dicom_port}"
    assert settings.workers == int(pod()["containers"][0]["resources"]["requests"]["cpu"])
    mounts = {mount["name"]: mount["mountPath"] for mount in pod()["containers"][0]["volumeMounts"]}
    assert mounts == {"archive": last("VOLUME"), "configuration": "/etc/filmroom", "temporary": "/tmp"}
    (claim,) = stateful_set()["volumeClaimTemplates"]
    assert {claim["metadata"]["name"], *(volume["name"] for volume in pod()["volumes"])} == mounts.keys()
    assert pod()["enableServiceLinks"] is False


def test_pods_are_asked_at_paths_that_are_routes_and_end_in_order() -> None:
    (container,) = pod()["containers"]
    probes = {name: container[f"{name}Probe"] for name in ("startup", "liveness", "readiness")}
    paths = {name: probe["httpGet"]["path"] for name, probe in probes.items()}
    assert paths == {"startup": "/health/live", "liveness": "/health/live", "readiness": "/health/ready"}
    open_paths = {route.path for route in ROUTES if route.method == "GET" and route.action is None}
    assert set(paths.values()) <= open_paths, "they need no login and no address"
    assert {probe["httpGet"]["port"] for probe in probes.values()} == {"http"}
    assert all(probe["timeoutSeconds"] > 2 for probe in probes.values()), "longer than cluster.wait_s"
    (sleep, duration) = container["lifecycle"]["preStop"]["exec"]["command"]
    assert sleep == "sleep"
    assert pod()["terminationGracePeriodSeconds"] > float(duration) + DRAIN_S
    assert seconds(compose()["services"]["pacs-1"]["stop_grace_period"]) > DRAIN_S


def test_services_and_the_disruption_budget_name_the_pods_and_their_ports() -> None:
    labels = stateful_set()["template"]["metadata"]["labels"]
    assert stateful_set()["selector"]["matchLabels"] == labels
    budget = resources()["PodDisruptionBudget", "pacs"]["spec"]
    assert (budget["maxUnavailable"], budget["selector"]["matchLabels"]) == (1, labels)
    ports = {port["name"]: port["containerPort"] for port in pod()["containers"][0]["ports"]}
    assert [str(port) for port in ports.values()] == last("EXPOSE").split()
    services = {name: each["spec"] for (kind, name), each in resources().items() if kind == "Service"}
    assert services.keys() == {"nodes", "dicom", "http"} and stateful_set()["serviceName"] == "nodes"
    for service in services.values():
        assert service["selector"] == labels
        assert all(port["port"] == ports[port["name"]] for port in service["ports"])
    assert (services["dicom"]["type"], services["dicom"]["externalTrafficPolicy"]) == ("LoadBalancer", "Local")
    assert services["nodes"]["clusterIP"] == "None" and "type" not in services["http"]


def test_pods_have_no_rights_and_write_nowhere_but_to_their_volumes() -> None:
    user, _, group = last("USER").partition(":")
    context = pod()["securityContext"]
    assert context["runAsNonRoot"] and (context["runAsUser"], context["runAsGroup"]) == (int(user), int(group))
    assert context["fsGroup"] == int(group) and context["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in (*pod()["initContainers"], *pod()["containers"]):
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert container["resources"]["limits"]["memory"]
    assert pod()["automountServiceAccountToken"] is False


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed")
def test_kustomize_makes_what_is_written() -> None:
    done = subprocess.run(["kubectl", "kustomize", KUBERNETES], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    made = {(each["kind"], each["metadata"]["name"]): each for each in yaml.safe_load_all(done.stdout)}
    assert resources().keys() <= made.keys()
    assert {each["metadata"]["namespace"] for each in made.values()} == {"filmroom"}
    ((_, name),) = made.keys() - resources().keys()
    configuration_map = made["ConfigMap", name]["data"]
    assert configuration_map == {"filmroom.toml": (KUBERNETES / "filmroom.toml").read_text()}
    template = made["StatefulSet", "pacs"]["spec"]["template"]["spec"]
    assert template["volumes"][0]["configMap"]["name"] == name, "another configuration starts the pods again"
    assert template["initContainers"][0]["env"] == pod()["initContainers"][0]["env"]
