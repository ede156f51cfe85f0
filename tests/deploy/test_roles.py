"""What the roles say of themselves agrees: defaults, argument specs, READMEs, and the list that preflight reads."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]  # comes with yamllint, without types

ROLES = sorted(Path("roles").iterdir())
TYPES: dict[str, type | tuple[type, ...]] = {
    "str": str,
    "path": str,
    "dict": dict,
    "list": list,
    "bool": bool,
    "int": int,
    "float": (int, float),
}


def read(path: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(path.read_text()) or {}
    return loaded


def options(role: Path) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = read(role / "meta/argument_specs.yml")["argument_specs"]["main"]["options"]
    return found


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
def test_every_default_has_an_argument_spec_with_the_same_default(role: Path) -> None:
    assert read(role / "defaults/main.yml") == {name: spec["default"] for name, spec in options(role).items()}


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
def test_every_argument_says_what_it_is_for_and_its_default_is_of_its_type(role: Path) -> None:
    for name, spec in options(role).items():
        assert spec["description"].strip(), name
        assert isinstance(spec["default"], TYPES[spec["type"]]), name


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
def test_every_argument_stands_in_the_readme_of_its_role(role: Path) -> None:
    named = set(re.findall(r"^\| `(\w+)` \|", (role / "README.md").read_text(), flags=re.MULTILINE))
    assert named == set(options(role))


def test_preflight_reads_the_arguments_of_every_role() -> None:
    listed = read(Path("roles/harvest_release/vars/main.yml"))["__harvest_release_roles"]
    assert listed == [role.name for role in ROLES]


def test_no_variable_is_used_that_no_role_declares() -> None:
    declared = {name for role in ROLES for name in options(role)}
    used: set[str] = set()
    for path in [*Path("roles").rglob("*.yml"), *Path("roles").rglob("*.j2"), *Path("playbooks").glob("*.yml")]:
        if path.name != "argument_specs.yml":
            text = re.sub(r"^\s*#.*$", "", path.read_text(), flags=re.MULTILINE)
            used |= set(re.findall(r"(?<![\w./-])harvest_(?!brain\b)\w+", text))
    modules = {role.name for role in ROLES}
    assert used - declared - modules == set()
