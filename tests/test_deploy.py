"""deploy/: what the recipes call exists, what they watch is told, and each alert has its page."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from prerank.cli.main import app
from prerank.config import parse
from prerank.service.http.app import Service
from prerank.service.settings import ServiceConfig

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
MANIFESTS = [
    part for path in sorted((DEPLOY / "kubernetes").glob("*.yaml")) for part in yaml.safe_load_all(path.read_text())
]
ALERTS = [
    rule
    for group in yaml.safe_load((DEPLOY / "prometheus/alerts.yaml").read_text())["groups"]
    for rule in group["rules"]
]
DOCKERFILE = (DEPLOY / "Dockerfile").read_text()


def of_kind(kind: str) -> dict[str, Any]:
    (found,) = [each for each in MANIFESTS if each["kind"] == kind]
    return dict(found)


def pods() -> list[dict[str, Any]]:
    job = of_kind("CronJob")["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    return [of_kind("Deployment")["spec"]["template"]["spec"], job]


def exists(words: list[str]) -> None:
    """The command line has this command with these options."""
    command: Any = typer.main.get_command(app)
    while hasattr(command, "commands"):
        command = command.commands[words.pop(0)]
    known = {option for parameter in command.params for option in parameter.opts}
    assert {word for word in words if word.startswith("--")} <= known


def test_commands_exist() -> None:
    for pod in pods():
        for container in pod["containers"]:
            exists(list(container["args"]))
    (words,) = re.findall(r"^CMD (\[.*\])$", DOCKERFILE, re.MULTILINE)
    exists(yaml.safe_load(words))


def test_extras_exist() -> None:
    (extras,) = re.findall(r"'\.\[(.*)\]'", DOCKERFILE)
    text = (ROOT / "pyproject.toml").read_text()
    assert all(re.search(rf"^{extra} = \[", text, re.MULTILINE) for extra in extras.split(","))


def test_settings_are_read() -> None:
    settings = parse(ServiceConfig, yaml.safe_load(of_kind("ConfigMap")["data"]["service.yaml"]), "config.yaml")
    grace = of_kind("Deployment")["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
    assert settings.drain_seconds + settings.grace_seconds < grace


def test_probes_ask_for_what_is_there(tmp_path: Path) -> None:
    service = Service(tmp_path, ServiceConfig())
    paths = {route.path for route in service.application.inner.routes}  # type: ignore[attr-defined]
    (container,) = of_kind("Deployment")["spec"]["template"]["spec"]["containers"]
    probes = [container[name]["httpGet"]["path"] for name in ("startupProbe", "readinessProbe", "livenessProbe")]
    assert set(probes) <= paths and "/healthz/ready" in DOCKERFILE
    service.engine.desk.close()


def test_pods_may_write_nowhere_and_are_nobody() -> None:
    for pod in pods():
        assert pod["securityContext"]["runAsNonRoot"] and not pod["automountServiceAccountToken"]
        for container in pod["containers"]:
            security = container["securityContext"]
            assert security["readOnlyRootFilesystem"] and not security["allowPrivilegeEscalation"]
            assert security["capabilities"] == {"drop": ["ALL"]} and container["resources"]["limits"]["memory"]
    assert "USER 10001" in DOCKERFILE
    (published,) = [each for each in pods()[0]["containers"][0]["volumeMounts"] if each["name"] == "published"]
    assert published["readOnly"]


def test_alerts_watch_series_that_exist() -> None:
    page = (ROOT / "docs" / "serving.md").read_text()
    (table,) = re.findall(r"<!-- metrics -->\n(.*?)<!-- end -->", page, re.DOTALL)
    known = set(re.findall(r"`(prerank_\w+)`", table))
    for rule in ALERTS:
        for name in re.findall(r"prerank_\w+", rule["expr"]):
            assert name in known or re.sub(r"_(bucket|sum|count)$", "", name) in known, f"{rule['alert']}: {name}"


def test_each_alert_has_its_page_and_no_page_is_left_over() -> None:
    page = (ROOT / "docs" / "operations.md").read_text()
    assert re.findall(r"^### (Prerank\w+)$", page, re.MULTILINE) == [rule["alert"] for rule in ALERTS]


@pytest.mark.skipif(shutil.which("promtool") is None, reason="not installed: promtool (apt install prometheus)")
def test_alerts_fire_when_they_should() -> None:
    tested = subprocess.run(
        ["promtool", "test", "rules", "alerts_test.yaml"],
        cwd=DEPLOY / "prometheus",
        capture_output=True,
        text=True,
        check=False,
    )
    assert tested.returncode == 0, tested.stdout + tested.stderr
