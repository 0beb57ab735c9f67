"""compose.yaml as Compose reads it, and what it and the Dockerfile name is there. No image is built here."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
import yaml
from compose_spec import PyCompose

from tests.runs import PROJECT

COMPOSE = yaml.safe_load((PROJECT / "deployments" / "compose.yaml").read_text())


def test_compose_yaml_is_valid_and_what_it_waits_for_is_a_service() -> None:
    PyCompose.from_json(json.dumps(COMPOSE)).validate()
    services = COMPOSE["services"]
    assert {name for one in services.values() for name in one.get("depends_on", {})} <= set(services)


def test_a_misspelt_key_would_be_found() -> None:
    wrong = json.loads(json.dumps(COMPOSE))
    wrong["services"]["worker"]["restrat"] = "always"
    with pytest.raises(ValueError, match="restrat"):
        PyCompose.from_json(json.dumps(wrong))


@pytest.mark.parametrize("file", ["deployments/Dockerfile", "deployments/path_service/Dockerfile"])
def test_copies_name_files_that_are_there_and_not_left_out_of_the_build(file: str) -> None:
    dockerfile = (PROJECT / file).read_text()
    copied = [name for line in dockerfile.splitlines() if line.startswith("COPY ") for name in line.split()[1:-1]]
    allowed = {
        line.removeprefix("!").split("/")[0]
        for line in (PROJECT / ".dockerignore").read_text().splitlines()
        if line.startswith("!")
    }
    assert [name for name in copied if not (PROJECT / name).exists() or Path(name).parts[0] not in allowed] == []


def test_commands_and_builds_name_files_that_are_there() -> None:
    for service in COMPOSE["services"].values():
        for word in shlex.split(service.get("command", "")):
            assert not word.endswith(".py") or (PROJECT / word).is_file(), word
        assert "build" not in service or (PROJECT / service["build"]["dockerfile"]).is_file()
