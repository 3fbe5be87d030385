"""The chart, rendered by Helm's own library and held against Kubernetes' schemas (strictly) and our settings."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from compose.pages import CHART, PROCESSES
from tests.clients import python_environment
from wire.service import describe

pytestmark = [pytest.mark.clients, pytest.mark.timeout(120)]

SOURCE = Path(__file__).with_name("helm")
#: Oldest and newest that we say something about.
KUBERNETES = ("1.34", pytest.param("1.27", marks=pytest.mark.slow))
#: Of operators that a cluster may have: Kubernetes itself has no schema for them.
FOREIGN = {"ScaledObject", "ServiceMonitor", "PrometheusRule"}


def shipped(name: str) -> dict[str, Any]:
    values: dict[str, Any] = yaml.safe_load((CHART / name).read_text())
    return values


CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "gpu": shipped("values-gpu.yaml"),
    "airgapped": shipped("values-airgapped.yaml"),
    "hpa": {
        "autoscaling": {"kind": "hpa"},
        "workers": {"u3pro": {"enabled": True}},
        "ingress": {"route": {"enabled": True, "tlsSecret": "speech-tls"}, "secret": "keys"},
        "monitoring": {"serviceMonitor": True, "rules": True, "labels": {"release": "prometheus"}},
    },
    "keda": {"autoscaling": {"kind": "keda"}, "networkPolicy": {"webhooks": True}},
    "own-redis": {
        "redis": {"enabled": False, "secret": "redis-urls"},
        "networkPolicy": {"redis": [{"ipBlock": {"cidr": "10.0.0.0/24"}}]},
    },
    "unlicensed": {"license": {"required": False}, "usage": {"enabled": False}},
    "mounted": {"workers": {"english": {"weightsClaim": "weights", "settings": {"THREADS": 2}}}},
}
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "a-typo": ({"ingres": {"replicas": 3}}, "ingres"),
    "a-wrong-kind": ({"autoscaling": {"kind": "vpa"}}, "kind"),
    "a-setting-in-lower-case": ({"ingress": {"settings": {"tick_ms": 10}}}, "tick_ms"),
    "no-redis": ({"redis": {"enabled": False}}, "where is your Redis"),
    "own-redis-out-of-reach": ({"redis": {"enabled": False, "url": "redis://r:6379"}}, "networkPolicy.redis"),
    "a-registry-without-its-slash": ({"image": {"registry": "registry.internal"}}, "registry"),
}


@pytest.fixture(scope="module", params=KUBERNETES)
def rendered(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    program = python_environment("helm", SOURCE / "requirements.txt")
    cases = CASES | {name: values for name, (values, _) in REFUSED.items()}
    job = tmp_path_factory.mktemp("helm") / "job.json"
    job.write_text(json.dumps({"chart": str(CHART), "kubernetes": request.param, "cases": cases}))
    ended = subprocess.run(
        [program, SOURCE / "render.py", job], capture_output=True, text=True, timeout=100, check=False
    )
    assert ended.returncode == 0, ended.stderr
    page: dict[str, Any] = json.loads(ended.stdout)
    return page


def of(documents: list[dict[str, Any]], kind: str) -> dict[str, dict[str, Any]]:
    return {each["metadata"]["name"]: each for each in documents if each["kind"] == kind}


def containers(documents: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Name of the Deployment -> its container."""
    return {
        name: each["spec"]["template"]["spec"]["containers"][0]
        for name, each in of(documents, "Deployment").items()
    }


def test_kubernetes_takes_what_the_chart_makes(rendered):
    for name in CASES:
        assert "error" not in rendered[name], rendered[name]
        assert rendered[name]["faults"] == [], name
        assert set(rendered[name]["unknown"]) <= FOREIGN, name


def test_wrong_values_are_refused_by_name(rendered):
    for name, (_, why) in REFUSED.items():
        assert why in rendered[name]["error"], name


def test_processes_are_told_what_they_know(rendered):
    known = {
        process: {name for names, _, _ in describe(cls) for name in names.split(", ")}
        for process, cls in PROCESSES.items()
    }
    for case in CASES:
        for name, container in containers(rendered[case]["documents"]).items():
            process = container["name"]
            told = {each["name"] for each in container["env"]} - {"STENO_CACHE"}
            assert told <= known[process], (case, name)
            assert len(told) + ("STENO_CACHE" in str(container["env"])) == len(container["env"])


def test_a_rollout_loses_nothing(rendered):
    for name, deployment in of(rendered["plain"]["documents"], "Deployment").items():
        if "ingress" in name or "worker" in name:
            rolling = deployment["spec"]["strategy"]["rollingUpdate"]
            assert rolling == {"maxSurge": 1, "maxUnavailable": 0}
            told = {each["name"]: each.get("value") for each in containers([deployment])[name]["env"]}
            grace_s = deployment["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
            assert grace_s > float(told["DRAIN_GRACE_S"])
    ingress = containers(rendered["plain"]["documents"])["speech-ingress"]
    assert ingress["lifecycle"]["preStop"]["exec"]["command"][0] == "sleep"
    budgets = of(rendered["plain"]["documents"], "PodDisruptionBudget")
    assert set(budgets) == {"speech-ingress", "speech-worker-english", "speech-worker-multilang"}


def test_every_container_is_hardened_and_bounded(rendered):
    for case in CASES:
        for kind in ("Deployment", "StatefulSet"):
            for each in of(rendered[case]["documents"], kind).values():
                pod = each["spec"]["template"]["spec"]
                assert pod["securityContext"]["runAsNonRoot"] is True
                assert pod["automountServiceAccountToken"] is False
                for container in pod["containers"]:
                    assert container["securityContext"]["readOnlyRootFilesystem"] is True
                    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
                    assert "memory" in container["resources"]["limits"]


def test_only_licensing_and_usage_may_leave(rendered):
    policies = of(rendered["plain"]["documents"], "NetworkPolicy")
    outside = policies.pop("speech-outside")["spec"]
    assert outside["podSelector"]["matchExpressions"][0]["values"] == ["licensing", "usage"]
    for policy in policies.values():
        for rule in policy["spec"].get("egress", []):
            assert "to" in rule or [port["port"] for port in rule["ports"]] == [53, 53]
    assert "speech-outside" not in of(rendered["airgapped"]["documents"], "NetworkPolicy")
    leaving = of(rendered["keda"]["documents"], "NetworkPolicy")["speech-outside"]["spec"]["podSelector"]
    assert "ingress" in leaving["matchExpressions"][0]["values"]


def test_autoscaling_asks_for_metrics_that_exist(rendered):
    from prometheus_client import generate_latest

    from wire import metrics

    page = generate_latest(metrics.REGISTRY).decode()
    scalers = of(rendered["hpa"]["documents"], "HorizontalPodAutoscaler")
    assert set(scalers) == {
        "speech-ingress",
        "speech-worker-english",
        "speech-worker-multilang",
        "speech-worker-u3pro",
    }
    for scaler in scalers.values():
        for metric in scaler["spec"]["metrics"]:
            name = metric[metric["type"].lower()]["metric"]["name"]
            assert f"# TYPE {name} gauge" in page
    for each in of(rendered["keda"]["documents"], "ScaledObject").values():
        query = each["spec"]["triggers"][0]["metadata"]["query"]
        assert "steno_sessions_open" in query or "steno_slots_used" in query
    for case in ("hpa", "keda"):
        for name, each in of(rendered[case]["documents"], "Deployment").items():
            assert ("replicas" in each["spec"]) == (name in ("speech-licensing", "speech-usage"))


def test_variants(rendered):
    gpu = containers(rendered["gpu"]["documents"])["speech-worker-english"]
    assert gpu["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert gpu["image"] == "steno/english-gpu:0.1.0"
    images = [each["image"] for each in containers(rendered["airgapped"]["documents"]).values()]
    assert all(image.startswith("registry.internal/steno/") for image in images)
    assert "speech-usage" not in of(rendered["airgapped"]["documents"], "Deployment")
    assert of(rendered["own-redis"]["documents"], "StatefulSet") == {}
    ingress = containers(rendered["own-redis"]["documents"])["speech-ingress"]
    assert ingress["env"][0]["valueFrom"]["secretKeyRef"] == {"name": "redis-urls", "key": "ingress"}
    told = {
        each["name"]: each.get("value")
        for each in containers(rendered["mounted"]["documents"])["speech-worker-english"]["env"]
    }
    assert told["STENO_CACHE"] == "/mounted"
    assert told["THREADS"] == "2"
    assert "speech-licensing" not in of(rendered["unlicensed"]["documents"], "Deployment")


def test_the_rules_are_those_of_compose(rendered):
    rule = of(rendered["hpa"]["documents"], "PrometheusRule")["speech"]["spec"]
    alerts = yaml.safe_load((CHART.parents[1] / "monitoring" / "alerts.yml").read_text())
    assert rule["groups"] == alerts["groups"]
    jobs = {
        each["metadata"]["labels"].get("steno/job")
        for each in of(rendered["hpa"]["documents"], "Service").values()
    }
    assert jobs - {None} == {"steno-ingress", "steno-workers", "steno-licensing", "steno-usage"}
