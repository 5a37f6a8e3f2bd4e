"""The image, the compose file and the unit of systemd: consistent with each other and with the server's defaults.

tools/check-image runs the Dockerfile's steps; here it is only read.
"""

from __future__ import annotations

import configparser
import json
import re
import shutil
import subprocess
import sys
import tomllib
from functools import cache
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from engine import config as configuration
from engine.cli import exit_codes
from engine.cli.commands import replicate
from engine.config import Config
from engine.config.reader import keys
from engine.web.routes import ROUTES

ROOT = Path(__file__).resolve().parent.parent
UNIT = ROOT / "tools" / "filmroom.service"
REPLICATION_UNITS = [ROOT / "tools" / f"filmroom-{name}.service" for name in ("replicate", "replica")]
DRAIN_S = Config().limits.drain_timeout_s + 10.0
"""The supervisor kills what has not ended by then, and writes a last checkpoint."""


@cache
def check_image() -> ModuleType:
    """tools/check-image, which is also a module."""
    loader = SourceFileLoader("check_image", str(ROOT / "tools" / "check-image"))
    spec = spec_from_loader("check_image", loader)
    assert spec is not None
    module = sys.modules["check_image"] = module_from_spec(spec)
    loader.exec_module(module)
    return module


@cache
def dockerfile() -> tuple[tuple[str, str], ...]:
    """The instructions and their arguments."""
    return tuple(check_image().instructions((ROOT / "tools" / "Dockerfile").read_text()))


def last(name: str) -> str:
    """The arguments of the last such instruction, which is the image's."""
    return [arguments for each, arguments in dockerfile() if each == name][-1]


def settings_of(environment: dict[str, str]) -> Config:
    """What the server makes of them; an unknown variable is a mistake."""
    known = {configuration.environment_variable(key) for key, _ in keys()}
    assert {name for name in environment if name.startswith("FILMROOM_")} <= known
    return configuration.load(None, environment, {})


def seconds(text: str) -> float:
    """Of `90`, `90s`, `5m`."""
    return float(text.rstrip("sm")) * (60 if text.endswith("m") else 1)


def test_the_image_runs_as_nobody_special_and_is_stopped_as_the_server_expects() -> None:
    user, _, group = last("USER").partition(":")
    assert int(user) > 0 and int(group) > 0
    assert last("STOPSIGNAL") == "SIGTERM"
    assert json.loads(last("ENTRYPOINT")) + json.loads(last("CMD")) == ["filmroom", "serve"]
    assert [name for name, _ in dockerfile()].count("FROM") == 2
    assert not {"ADD", "MAINTAINER"} & {name for name, _ in dockerfile()}


def test_the_image_leaves_no_caches_behind() -> None:
    for name, arguments in dockerfile():
        if name == "RUN":
            assert arguments.count("apt-get install") <= arguments.count("rm -rf /var/lib/apt/lists/*")
            for command in re.split(r"&&", arguments):
                assert not re.search(r"/pip .*(install|wheel) ", command) or "--no-cache-dir" in command, command


def test_the_ports_volume_and_health_check_of_the_image_are_those_of_the_server() -> None:
    words = [word.partition("=") for word in re.findall(r"\w+=\S+", last("ENV"))]
    settings = settings_of({name: value for name, _, value in words if name.startswith("FILMROOM_")})
    assert last("EXPOSE").split() == [str(settings.dicom_port), str(settings.http.port)]
    assert str(settings.data) == last("VOLUME")
    command = json.loads(last("HEALTHCHECK").partition(" CMD ")[2])
    assert command[:2] == ["python3", "-Ic"]
    compile(command[2], "HEALTHCHECK", "exec")
    assert f"'127.0.0.1', {settings.http.port}," in command[2]
    assert any(route.path in command[2] and route.path != "/" for route in ROUTES)


def test_the_context_has_what_the_wheel_is_made_of_and_no_more() -> None:
    module = check_image()
    patterns = (ROOT / "tools" / "Dockerfile.dockerignore").read_text().splitlines()
    patterns = [line for line in patterns if line and not line.startswith("#")]
    sent = ("engine/cli/__init__.py", "engine/docs/index.md", "ext/disk.pyx", "pyproject.toml", "tools/runtime.lock")
    kept = (".git/config", ".venv/bin/python", "filmroom-data/segments/1", "tests/test_tidy.py", "tools/check", "x.dcm",
            "engine/_ext/disk.cpython-311-x86_64-linux-gnu.so", "engine/__pycache__/x.pyc", "build/lib")  # fmt: skip
    assert [path for path in sent if module.is_ignored(path, patterns)] == []
    assert [path for path in kept if not module.is_ignored(path, patterns)] == []
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packages = {name.partition(".")[0] for name in project["tool"]["setuptools"]["packages"]["find"]["include"]}
    assert all(f"!{package}" in patterns for package in packages)


def service() -> dict[str, Any]:
    """The one service of the compose file."""
    return dict(yaml.safe_load((ROOT / "tools" / "compose.yaml").read_text())["services"]["filmroom"])


def test_the_compose_file_limits_the_server_and_shows_http_to_this_machine_only() -> None:
    compose = service()
    assert compose["read_only"] and compose["init"] and compose["cap_drop"] == ["ALL"]
    assert compose["security_opt"] == ["no-new-privileges:true"]
    assert compose["mem_limit"] and compose["pids_limit"] and compose["cpus"]
    assert seconds(compose["stop_grace_period"]) > DRAIN_S
    settings = settings_of(compose["environment"])
    assert settings.workers == compose["cpus"]
    assert compose["ports"] == [f"{settings.dicom_port}:{settings.dicom_port}", "127.0.0.1:8080:8080"]
    (network,) = yaml.safe_load((ROOT / "tools/compose.yaml").read_text())["networks"]["default"]["ipam"]["config"]
    assert set(settings.http.allow) == {"127.0.0.0/8", network["gateway"]}
    assert compose["volumes"] == [f"archive:{last('VOLUME')}"]
    assert (ROOT / "tools" / compose["build"]["context"] / compose["build"]["dockerfile"]).is_file()


def unit() -> configparser.ConfigParser:
    """The unit; of a key that is there twice, the last value."""
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(UNIT)
    return parser


def test_systemd_waits_for_the_server_to_start_and_to_end() -> None:
    service = unit()["Service"]
    assert (service["Type"], service["KillMode"]) == ("notify", "mixed")
    assert service["TimeoutStartSec"] == "infinity"
    assert seconds(service["TimeoutStopSec"]) > DRAIN_S
    name, _, value = service["Environment"].partition("=")
    assert str(settings_of({name: value}).data) == f"/var/lib/{service['StateDirectory']}"


def test_the_unit_leaves_the_server_what_it_needs() -> None:
    """Codec processes limit their memory, the caretaker lowers its priority; /proc/meminfo and the boot id are read."""
    service = unit()["Service"]
    calls = re.findall(r"^SystemCallFilter=(.*)$", UNIT.read_text(), re.MULTILINE)
    assert calls[0] == "@system-service" and "@resources" not in " ".join(calls)
    assert "ProcSubset" not in service
    assert {"AF_UNIX", "AF_INET", "AF_INET6"} <= set(service["RestrictAddressFamilies"].split())


@pytest.mark.parametrize("path", REPLICATION_UNITS, ids=lambda path: path.stem)
def test_replication_runs_in_the_sandbox_of_the_server(path: Path) -> None:
    def sandbox(text: str) -> list[str]:
        lines = text[text.index("\nCapabilityBoundingSet=\n") : text.index("[Install]")].splitlines()
        return [line for line in lines if line and not line.startswith("#")]

    text = path.read_text()
    assert sandbox(text) == sandbox(UNIT.read_text())
    (command,) = re.findall(r"^ExecStart=/opt/filmroom/bin/filmroom replicate(.*)$", text, re.MULTILINE)
    options = {option for parameter in replicate.command.params for option in parameter.opts}
    assert {word for word in command.split() if word.startswith("--")} <= options
    assert f"RestartPreventExitStatus=2 {exit_codes.UNAVAILABLE}" in text


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
@pytest.mark.parametrize("path", [UNIT, *REPLICATION_UNITS], ids=lambda path: path.stem)
def test_systemd_takes_every_line_of_the_unit(tmp_path: Path, path: Path) -> None:
    copy = tmp_path / path.name
    copy.write_text(path.read_text().replace("/opt/filmroom/bin/filmroom", "/bin/true").replace("Documentation=", "#"))
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", copy], capture_output=True, text=True)
    assert path.name not in done.stderr, done.stderr
    copy.write_text(copy.read_text().replace("NoNewPrivileges", "NoNewPrivilege"))
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", copy], capture_output=True, text=True)
    assert "NoNewPrivilege" in done.stderr, "a wrong line is said"
