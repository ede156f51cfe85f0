"""Bad input stops deploy.yml before it speaks to any host, and says what to do.

The host of these inventories can't be reached, and the last test shows that it would be noticed: good input gets as
far as the host. Needs what `make deploy-lint` sets up: Ansible, and the bundle in dist/.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

HOSTS = "harvest: {hosts: {nowhere: {ansible_host: 127.0.0.1, ansible_port: 1}}}\n"
ROOT = Path(__file__).parents[2]


def deploy(inventory: Path, playbook: str = "deploy", **extra: Any) -> str:
    """What the playbook says, which must fail, without colours and line breaks."""
    done = subprocess.run(
        ["ansible-playbook", "--inventory", inventory, f"playbooks/{playbook}.yml", "--extra-vars", json.dumps(extra)],
        cwd=ROOT,
        env={**os.environ, "ANSIBLE_NOCOLOR": "1", "ANSIBLE_SSH_RETRIES": "0"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0, done.stdout
    return done.stdout + done.stderr


@pytest.fixture
def inventory(tmp_path: Path) -> Path:
    (tmp_path / "hosts.yml").write_text(HOSTS)
    return tmp_path


def settings(**values: Any) -> dict[str, Any]:
    return {"harvest_settings": values}


@pytest.mark.parametrize("playbook", ["deploy", "rollback", "promote", "proof", "kill"])
def test_a_misspelt_variable_is_named_whatever_playbook_it_is_given_to(inventory: Path, playbook: str) -> None:
    said = deploy(inventory, playbook, harvest_bundel="dist")
    assert "There is no such variable: harvest_bundel." in said
    assert "UNREACHABLE" not in said


def test_a_misspelt_variable_in_the_inventory_is_named(inventory: Path) -> None:
    (inventory / "group_vars").mkdir()
    (inventory / "group_vars/harvest.yml").write_text("harvest_setings: {HARVEST_MODE: live}\n")
    assert "There is no such variable: harvest_setings." in deploy(inventory)


FAULTS = {
    "HARVEST_LADDER": ("0.5:0.6,0.4:0.6", "HARVEST_LADDER='0.5:0.6,0.4:0.6' (harvest-brain.env line"),
    "HARVEST_LADER": ("0.5:0.5", "there is no such setting; did you mean HARVEST_LADDER?"),
    "REDIS_PORT": ("six", "REDIS_PORT='six'"),
    "HARVEST_REDUCE_ONLY": (False, "HARVEST_REDUCE_ONLY='false'"),
    "LOG_LEVEL": ("INFO # loud", "LOG_LEVEL='INFO # loud' (harvest-brain.env line"),
    "REDIS_PASSWORD": ("secret", "a password belongs into a file"),
}


def test_settings_are_judged_by_the_daemons_own_parser_and_every_fault_is_shown(inventory: Path) -> None:
    said = deploy(inventory, **settings(**{name: value for name, (value, _) in FAULTS.items()}))
    for _, complaint in FAULTS.values():
        assert complaint in said
    assert "nothing was changed" in said
    assert "UNREACHABLE" not in said


def test_a_setting_given_twice_is_refused(inventory: Path) -> None:
    (inventory / "group_vars").mkdir()
    (inventory / "group_vars/harvest.yml").write_text("harvest_settings:\n  HARVEST_MIN_R: 1\n  HARVEST_MIN_R: 2\n")
    said = deploy(inventory)
    assert "HARVEST_MIN_R" in said
    assert "duplicate" in said.lower()


def test_a_tampered_wheel_is_refused_before_any_of_it_is_run(inventory: Path, tmp_path: Path) -> None:
    bundle = next(ROOT.glob("dist/harvest-brain-*.tar")).with_suffix("")
    shutil.copytree(bundle, tmp_path / "bundle")
    wheel = next((tmp_path / "bundle/wheelhouse").glob("harvest_brain-*.whl"))
    wheel.write_bytes(wheel.read_bytes() + b"\0")
    said = deploy(inventory, harvest_bundle=str(tmp_path / "bundle"))
    assert f"wheelhouse/{wheel.name} in the bundle is not what SHA256SUMS says" in said
    assert "check-config" not in said
    assert "UNREACHABLE" not in said


def test_a_bundle_that_is_not_there_is_named(inventory: Path, tmp_path: Path) -> None:
    assert f"{tmp_path}/nothing is not a bundle" in deploy(inventory, harvest_bundle=f"{tmp_path}/nothing")


def test_a_redis_elsewhere_needs_its_address_in_the_units_firewall(inventory: Path) -> None:
    said = deploy(inventory, **settings(REDIS_HOST="10.0.0.5"))
    assert 'harvest_ip_allow=["10.0.0.5"]' in said.replace("\\", "")
    assert "UNREACHABLE" not in said


def test_sentinels_are_found_at_addresses_of_either_kind_and_with_spaces_between(inventory: Path) -> None:
    said = deploy(inventory, **settings(REDIS_SENTINELS="fd00::5:26379, 10.0.0.6:26380", REDIS_SENTINEL_MASTER="m"))
    assert "Redis is at fd00::5, 10.0.0.6, and the unit" in " ".join(said.split())
    assert "UNREACHABLE" not in said


@pytest.mark.parametrize("name", ["harvest_redis_password", "harvest_redis_operator_password"])
def test_a_password_that_yaml_takes_for_a_number_is_refused(inventory: Path, name: str) -> None:
    given: dict[str, Any] = {name: 12345678, **settings(REDIS_USERNAME="hb")}
    said = deploy(inventory, **given)
    assert f'{name} is no text: put it into quotes, as in "12345".' in " ".join(said.split())
    assert "12345678" not in said
    assert "UNREACHABLE" not in said


def test_off_without_quotes_which_yaml_takes_for_a_no_is_refused(inventory: Path) -> None:
    """It would have been the way back to the last proven release."""
    said = deploy(inventory, "rollback", harvest_rollback_to=False)
    assert 'harvest_rollback_to is no text: put it into quotes, as in "off".' in " ".join(said.split())
    assert "UNREACHABLE" not in said


def test_an_operators_password_needs_the_daemons_user_to_be_named(inventory: Path) -> None:
    for named in ({}, {"REDIS_URL": "redis://hb@127.0.0.1:6379", "REDIS_USERNAME": "hb"}):
        said = deploy(inventory, harvest_redis_operator_password="secret", **settings(**named))
        assert "set REDIS_USERNAME, and leave the user out of REDIS_URL" in " ".join(said.split())
        assert "UNREACHABLE" not in said
    said = deploy(inventory, harvest_redis_operator_password="secret", **settings(REDIS_USERNAME="hb"))
    assert "UNREACHABLE" in said


MANAGED = {
    "harvest_redis_managed": True,
    "harvest_redis_password": "p" * 16,
    "harvest_redis_operator_password": "o" * 16,
    **settings(REDIS_USERNAME="hb"),
}


@pytest.mark.parametrize(
    ("wrong", "complaint"),
    [
        ({"harvest_redis_password": "short"}, "of 16 characters or more"),
        ({"harvest_redis_operator_password": "p" * 16}, "another harvest_redis_operator_password"),
        ({"harvest_redis_operator_password": ""}, "another harvest_redis_operator_password"),
        (settings(), "set REDIS_USERNAME"),
        (settings(REDIS_USERNAME="harvest brain"), "a name without spaces"),
        (settings(REDIS_USERNAME="default"), "and not default"),
        ({"harvest_redis_default_password": 12345678}, "harvest_redis_default_password is no text"),
        ({**settings(REDIS_USERNAME="hb", REDIS_HOST="10.0.0.5"), "harvest_ip_allow": ["10.0.0.5"]}, "at 10.0.0.5"),
        (settings(REDIS_USERNAME="hb", REDIS_SOCKET="/run/elsewhere.sock"), "at /run/elsewhere.sock"),
    ],
)
def test_a_redis_that_is_looked_after_is_told_what_it_lacks(
    inventory: Path, wrong: dict[str, Any], complaint: str
) -> None:
    said = " ".join(deploy(inventory, **{**MANAGED, **wrong}).split())
    assert complaint in said
    assert "Nothing was changed" in said
    assert "12345678" not in said
    assert "UNREACHABLE" not in said


def test_a_redis_that_is_looked_after_and_lacks_nothing_gets_as_far_as_the_host(inventory: Path) -> None:
    assert "UNREACHABLE" in deploy(inventory, **MANAGED)
    at_its_socket = settings(REDIS_USERNAME="hb", REDIS_SOCKET="/run/redis/harvest.sock")
    assert "UNREACHABLE" in deploy(inventory, **{**MANAGED, **at_its_socket})


def test_a_vault_without_its_password_stops_everything(inventory: Path) -> None:
    (inventory / "group_vars/harvest").mkdir(parents=True)
    vault = inventory / "group_vars/harvest/vault.yml"
    vault.write_text("vault_harvest_redis_password: x\n")
    (inventory / "password").write_text("p")
    subprocess.run(["ansible-vault", "encrypt", "--vault-password-file", inventory / "password", vault], check=True)
    (inventory / "password").unlink()
    assert "no vault secrets" in deploy(inventory)


def test_good_input_gets_as_far_as_the_host(inventory: Path) -> None:
    assert "UNREACHABLE" in deploy(inventory, **settings(HARVEST_MIN_R=1))


def test_without_the_vault_s_file_the_missing_name_is_said_and_where_it_comes_from(inventory: Path) -> None:
    shutil.copytree(ROOT / "inventories/staging/group_vars", inventory / "group_vars")
    (inventory / "group_vars/harvest/vault.yml").unlink(missing_ok=True)
    said = deploy(inventory)
    assert "'vault_harvest_redis_password' is undefined" in said
    assert "From vault.yml, which is made from vault.yml.example" in said
    assert "UNREACHABLE" not in said


@pytest.mark.parametrize(("name", "value"), [("harvest_runtime", "vent"), ("harvest_container_engine", "dokcer")])
def test_a_choice_that_there_is_not_is_refused_with_those_that_there_are(
    inventory: Path, name: str, value: str
) -> None:
    said = deploy(inventory, **{name: value})
    assert f"value of {name} must be one of:" in said
    assert f"got: {value}" in said
    assert "UNREACHABLE" not in said


def test_an_image_that_is_none_is_refused(inventory: Path, tmp_path: Path) -> None:
    (tmp_path / "image.tar").write_text("no archive")
    said = deploy(inventory, harvest_runtime="container", harvest_container_image=str(tmp_path / "image.tar"))
    assert "image.tar is no archive of an image" in said
    assert "UNREACHABLE" not in said
    said = deploy(inventory, harvest_runtime="container", harvest_container_image=str(tmp_path / "nothing.tar"))
    assert "nothing.tar is no archive of an image" in said
