"""Alerts and dashboard: every metric in them is one of ours, and the rules fire when they should (promtool)."""

import json
import re
import subprocess
from pathlib import Path

import pytest
import yaml
from prometheus_client import generate_latest

from tests.tools import tool
from wire import metrics

MONITORING = Path(__file__).parents[2] / "compose" / "monitoring"
#: Metrics of Prometheus itself.
FOREIGN = {"up"}
RULES = yaml.safe_load((MONITORING / "alerts.yml").read_text())
ALERTS = {rule["alert"]: rule for group in RULES["groups"] for rule in group["rules"]}
DASHBOARD = json.loads((MONITORING / "dashboard.json").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
SCRAPED = yaml.safe_load((MONITORING / "prometheus.yml").read_text())["scrape_configs"]


def ours() -> set[str]:
    """Every name on a page /metrics, and the parts of histograms."""
    declared = {
        line.split()[2]
        for line in generate_latest(metrics.REGISTRY).decode().splitlines()
        if "# TYPE" in line
    }
    histograms = {f"{name}_{part}" for name in declared for part in ("bucket", "sum", "count")}
    return declared | histograms


def named(expression: str) -> set[str]:
    """The metrics in an expression; every one has a word with a _ in it, or is `up`."""
    bare = re.sub(r'\{[^}]*\}|"[^"]*"|\[[^]]*\]|by \([^)]*\)', " ", expression)
    words = set(re.findall(r"\b[a-z][a-z0-9_]+\b", bare))
    functions = set(re.findall(r"\b([a-z_]+)\s*\(", bare)) | {"by", "le", "without"}
    return {word for word in words - functions if "_" in word or word in FOREIGN}


@pytest.mark.parametrize("alert", ALERTS)
def test_an_alert_asks_for_metrics_that_exist_and_says_what_is_wrong(alert):
    rule = ALERTS[alert]
    assert named(rule["expr"]), rule["expr"]
    assert named(rule["expr"]) <= ours() | FOREIGN
    assert rule["labels"]["severity"] in ("warning", "critical")
    assert rule["annotations"]["summary"].endswith(".")


def test_every_alert_is_tested_and_told_of_in_the_guide():
    tests = yaml.safe_load((MONITORING / "alerts_test.yml").read_text())["tests"]
    fired = {
        case["alertname"] for test in tests for case in test["alert_rule_test"] if case.get("exp_alerts")
    }
    silent = {
        case["alertname"] for test in tests for case in test["alert_rule_test"] if not case.get("exp_alerts")
    }
    assert fired == silent == set(ALERTS)
    guide = (MONITORING.parents[1] / "docs" / "operations.md").read_text()
    assert [alert for alert in ALERTS if f"`{alert}`" not in guide] == []


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel["title"])
def test_a_panel_shows_metrics_that_exist(panel):
    for target in panel["targets"]:
        assert named(target["expr"]), target
        assert named(target["expr"]) <= ours(), target
    assert panel["description"].endswith(".")


def test_panels_do_not_overlap_and_have_numbers_of_their_own():
    taken = [
        (panel["gridPos"]["x"] + x, panel["gridPos"]["y"] + y)
        for panel in DASHBOARD["panels"]
        for x in range(panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["h"])
    ]
    assert len(taken) == len(set(taken))
    assert max(x for x, _ in taken) < 24
    numbers = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(numbers) == len(set(numbers))


def test_what_is_scraped_are_services_of_the_stacks():
    services = {
        name
        for file in ("docker-compose.yml", "docker-compose.u3pro.yml")
        for name in yaml.safe_load((MONITORING.parent / file).read_text())["services"]
    }
    scraped = {name for job in SCRAPED for name in job["dns_sd_configs"][0]["names"]}
    assert scraped == services - {"redis", "streaming-asr-lb"}
    jobs = {job["job_name"] for job in SCRAPED}
    asked = {job for rule in ALERTS.values() for job in re.findall(r'job="([^"]+)"', rule["expr"])}
    assert asked <= jobs


@pytest.mark.parametrize(
    "words", [("check", "config", "prometheus.yml"), ("test", "rules", "alerts_test.yml")]
)
def test_promtool_agrees(words):
    found = subprocess.run(
        [tool("promtool"), *words], cwd=MONITORING, capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, found.stdout + found.stderr


def test_every_panel_asks_in_good_promql(tmp_path):
    """As rules, which promtool parses."""
    asked = [target["expr"] for panel in PANELS for target in panel["targets"]]
    rules = [
        {"record": f"panel:{number}", "expr": expression.replace("$__rate_interval", "1m")}
        for number, expression in enumerate(asked)
    ]
    (tmp_path / "rules.yml").write_text(json.dumps({"groups": [{"name": "panels", "rules": rules}]}))
    found = subprocess.run(
        [tool("promtool"), "check", "rules", "rules.yml"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0, found.stdout + found.stderr
