"""What a host does at its boot after a reboot between switch and verdict, with a real systemd."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.vps import LIMIT_SEC, SYSTEMD, Host

FILES = Path(__file__).parents[2] / "roles/harvest_tools/files"
HISTORY = "/var/lib/quantum/harvest-brain-deploy/history.jsonl"
BOOT = "quantum-harvest-brain-boot.service"
TIMER = "quantum-harvest-brain-deadman.timer"
PENDING = {"event": "switching", "release": "0.1.0-0123456789ab", "from": None, "back": False, "at": "2026-01-18"}

pytestmark = [pytest.mark.containers, pytest.mark.slow, pytest.mark.timeout(LIMIT_SEC + 60)]


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    made = Host(tmp_path, SYSTEMD)
    made.run("mkdir", "-p", "/opt/quantum/harvest-brain/bin", str(Path(HISTORY).parent))
    play = [
        {
            "hosts": "harvest",
            "gather_facts": False,
            "tasks": [{"import_role": {"name": "harvest_tools"}}],
        }
    ]
    (tmp_path / "play.yml").write_text(json.dumps(play))
    try:
        code, said = made.play(tmp_path / "play.yml")
        assert code == 0, said
        code, said = made.play(tmp_path / "play.yml")
        assert "changed=0" in said, said
        yield made
    finally:
        made.remove()


@pytest.mark.parametrize("pending", [True, False], ids=["a switch is pending", "nothing is pending"])
def test_the_timer_is_armed_anew_where_a_switch_waits_for_its_verdict(host: Host, pending: bool) -> None:
    host.run("systemd-analyze", "verify", "--recursive-errors=one", f"/etc/systemd/system/{BOOT}")
    host.run("systemctl", "daemon-reload")
    assert host.run("systemctl", "is-enabled", BOOT).strip() == "enabled"
    line = json.dumps(PENDING if pending else PENDING | {"event": "proven"})
    host.run("sh", "-c", f"echo '{line}' >{HISTORY}")
    host.run("systemctl", "start", BOOT)
    armed = host.run("systemctl", "show", TIMER, "--property=ActiveState", "--value").strip()
    assert armed == ("active" if pending else "inactive")
    status = json.loads(host.run("harvestctl", "status", "--json"))
    assert (status["timer"] is not None) is pending
