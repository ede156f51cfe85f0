"""One env file, four readers: HarvestBrain, python-dotenv, `docker run --env-file`, and systemd's EnvironmentFile.

Docker is the real one, in a container. systemd's reader is the function that its manager calls (`load_env_file` in
its shared library), called here directly; where that library is not installed its tests are skipped.
"""

from __future__ import annotations

import ctypes
import random
import subprocess
from collections.abc import Callable
from functools import cache
from io import StringIO
from pathlib import Path

import pytest
from dotenv import dotenv_values
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from tests.support import engine

from harvest_brain.config import _read_file, template

Reader = Callable[[Path], dict[str, str]]

# What the grammar accepts and what some reader might take for something else.
ODD_VALUES = (
    *(
        "",
        "#x",
        "a#b",
        ";",
        "a;b",
        "a=b",
        "==",
        "a&b|c<d>e",
        "(x)",
        "{quantum}:kill",
        "$",
        "a$",
        "$1",
        "$$",
        "%h",
        "%%",
    ),
    *(
        "~",
        "!x",
        "*",
        "?",
        "a  b",
        "a b",
        "-n",
        "é",
        "日本",
        "🙂",
        "0.5:0.25,1.0:0.25",
        "export",
        "null",
        "/a/b",
        "a,b",
    ),
)


def by_harvest_brain(path: Path) -> dict[str, str]:
    faults: list[str] = []
    read, _ = _read_file(path, faults)
    assert not faults
    return read


def by_dotenv(path: Path) -> dict[str, str]:
    return {name: value or "" for name, value in dotenv_values(path, interpolate=False).items()}


def by_docker(path: Path) -> dict[str, str]:
    done = subprocess.run(
        [
            "docker",
            "run",
            "--rm",
            "--network=none",
            "--env-file",
            path,
            "--entrypoint=env",
            engine.image("DAEMON"),
            "-0",
        ],
        capture_output=True,
        check=True,
        timeout=120,
    )
    found = dict(line.split("=", 1) for line in done.stdout.decode().split("\0") if line)
    return {name: value for name, value in found.items() if name in by_harvest_brain(path)}


@cache
def systemd_library() -> ctypes.CDLL | None:
    found = sorted(
        path for place in ("systemd", "*/systemd") for path in Path("/usr/lib").glob(f"{place}/libsystemd-shared-*.so")
    )
    return ctypes.CDLL(str(found[-1])) if found else None


def by_systemd(path: Path) -> dict[str, str]:
    library = systemd_library()
    if library is None:
        pytest.skip("libsystemd-shared, which holds systemd's own reader, is not installed")
    load_env_file = library.load_env_file
    lines = ctypes.POINTER(ctypes.c_char_p)()
    assert load_env_file(None, str(path).encode(), ctypes.byref(lines)) >= 0
    found: list[str] = []
    while lines and (line := lines[len(found)]) is not None:
        found.append(line.decode())
    return dict(line.split("=", 1) for line in found)


others = pytest.mark.parametrize(
    "other", [by_dotenv, by_systemd, pytest.param(by_docker, marks=pytest.mark.containers)]
)


@others
def test_every_reader_takes_the_template_alike(tmp_path: Path, other: Reader) -> None:
    path = tmp_path / "template.env"
    path.write_text(template())
    assert len(by_harvest_brain(path)) > 50
    assert other(path) == by_harvest_brain(path)


@others
@pytest.mark.parametrize("line_end", ["\n", "\r\n"], ids=["unix", "windows"])
def test_every_reader_takes_odd_values_alike(tmp_path: Path, other: Reader, line_end: str) -> None:
    lines = ["# a comment", "", "#NAME=commented", *(f"NAME_{n}={value}" for n, value in enumerate(ODD_VALUES))]
    path = tmp_path / "odd.env"
    path.write_bytes(line_end.join([*lines, ""]).encode())
    assert by_harvest_brain(path) == {f"NAME_{n}": value for n, value in enumerate(ODD_VALUES)}
    assert other(path) == by_harvest_brain(path)


@others
def test_the_last_line_may_lack_its_end(tmp_path: Path, other: Reader) -> None:
    path = tmp_path / "short.env"
    path.write_text("A=1\nB=2")
    assert other(path) == by_harvest_brain(path) == {"A": "1", "B": "2"}


def accepted(lines: list[str], path: Path) -> list[str]:
    """Those of `lines` that HarvestBrain takes."""
    kept = []
    for line in lines:
        path.write_text(f"{line}\n", encoding="utf-8", newline="")
        faults: list[str] = []
        read, _ = _read_file(path, faults)
        if read and not faults:
            kept.append(line)
    return kept


@pytest.mark.containers
def test_docker_takes_whatever_is_accepted_alike(tmp_path: Path) -> None:
    chance = random.Random(7)
    alphabet = "aZ09 \t#;$'\"`\\=%:,./{}()!*~é日-_"
    lines = [f"NAME_{n}=" + "".join(chance.choices(alphabet, k=chance.randrange(12))) for n in range(800)]
    path = tmp_path / "random.env"
    kept = accepted(lines, path)
    assert len(kept) > 100
    path.write_text("\n".join(kept) + "\n", encoding="utf-8")
    assert by_docker(path) == by_harvest_brain(path)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@example(lines=["A=\x0c"])
@example(lines=["A=a\x85b", "B=\u2028"])
@given(st.lists(st.from_regex(r"[A-Z][A-Z0-9_]{0,3}=[^\n\r\x00]{0,12}", fullmatch=True), max_size=5))
def test_systemd_and_dotenv_take_whatever_is_accepted_alike(tmp_path: Path, lines: list[str]) -> None:
    path = tmp_path / "random.env"
    kept = list({line.split("=")[0]: line for line in accepted(lines, path)}.values())
    path.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8", newline="")
    assert by_systemd(path) == by_harvest_brain(path)
    assert by_dotenv(path) == by_harvest_brain(path)


@pytest.mark.parametrize("comment", ["# a\\", "# a\rB=2", "#\x00", "#\x1b[1m"])
def test_a_comment_that_a_reader_might_end_elsewhere_is_refused(tmp_path: Path, comment: str) -> None:
    path = tmp_path / "bad.env"
    path.write_text(f"A=1\n{comment}\nC=3\n", encoding="utf-8", newline="")
    faults: list[str] = []
    _read_file(path, faults)
    accepted = "a comment ends in a backslash or holds a control character; accepted: # and text"
    assert faults == [f"{path} line 2: {accepted}"]


def test_systemd_ends_a_comment_at_a_carriage_return(tmp_path: Path) -> None:
    path = tmp_path / "bad.env"
    path.write_text("# a\rB=2\n", encoding="utf-8", newline="")
    assert by_systemd(path) == {"B": "2"}


@others
@pytest.mark.parametrize("comment", ["#", "# é 日本 🙂 \t x", "# a\\ ", "# 'a", '# "a', "# $A", "#=#"])
def test_every_reader_takes_a_comment_for_one(tmp_path: Path, other: Reader, comment: str) -> None:
    path = tmp_path / "comment.env"
    path.write_text(f"A=1\n{comment}\nC=3\n", encoding="utf-8", newline="")
    assert other(path) == by_harvest_brain(path) == {"A": "1", "C": "3"}


@pytest.mark.parametrize(
    "line", ['NAME="a"', "NAME='a'", "NAME=a # b", "NAME=a\\", "NAME= a", "NAME=a ", "NAME=${HOME}", "export NAME=a"]
)
def test_what_the_readers_disagree_on_is_refused(tmp_path: Path, line: str) -> None:
    path = tmp_path / "bad.env"
    path.write_text(f"{line}\n")
    readings = [
        by_systemd(path),
        {name: value or "" for name, value in dotenv_values(stream=StringIO(f"{line}\n")).items()},
        {line.split("=", 1)[0]: line.split("=", 1)[1]},  # docker takes all that follows the first = as it stands
    ]
    assert any(reading != readings[0] for reading in readings)
    assert accepted([line], path) == []
