"""The command line: `harvest-brain run`, and what a person needs beside it.

Exit codes: 0 done, 1 it could not be done (the reason goes to stderr), 2 the command or the configuration is at fault;
`proof` has its own.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from contextlib import closing
from io import TextIOWrapper
from pathlib import Path

import redis

from harvest_brain import __version__
from harvest_brain.config import ConfigError, Loaded, Settings, in_force, load, load_switch, table, template
from harvest_brain.daemon import run
from harvest_brain.ops import control, proof
from harvest_brain.ops.acl import acl_text
from harvest_brain.ops.control import RefusedError
from harvest_brain.ops.doctor import examine, of_durability
from harvest_brain.ops.purge import purge
from harvest_brain.ops.status import Overview, overview
from harvest_brain.permit import durability, server_facts
from harvest_brain.redis.client import connect, make_connection
from harvest_brain.redis.store import UnusableError
from harvest_brain.redis.transport import RedisTransport
from harvest_brain.report import UNPRICED_AFTER_SEC, explain

HEALTHY_WITHIN_SEC = 15
WAITS = "no daemon has taken it yet; the next one that leads will"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Returns the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # where a ● can't be shown, the rest still can
    try:
        code = _command(arguments)
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read this has gone. Nor must Python complain of it, when it flushes at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except ConfigError as error:
        for fault in error.faults:
            print(fault, file=sys.stderr)
        return 2
    except RefusedError as error:
        print(error, file=sys.stderr)
        return 1
    except (redis.RedisError, UnusableError) as error:
        print(f"Redis: {explain(error)}", file=sys.stderr)
        return 1
    except OSError as error:
        print(error, file=sys.stderr)
        return 1
    return code


def _command(arguments: list[str]) -> int:
    if arguments[:1] == ["demo"]:
        # Only the demo needs its exchange, its market and its picture.
        from harvest_brain.ops import demo  # noqa: PLC0415

        return demo.main(arguments[1:])
    options = _parser().parse_args(arguments)
    code: int = options.command(options)
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="harvest-brain", description="Takes partial profits at multiples of the risk."
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(
        name: str, command: object, text: str, *, env_file: bool = True, epilog: str = ""
    ) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=text, description=text, epilog=epilog)
        made.set_defaults(command=command)
        if env_file:
            made.add_argument("--env-file", type=Path, help="settings; without it they come from the environment")
        return made

    add("run", _run, "run the daemon until it is told to stop")
    status = add("status", _status, "show how it goes, whether the daemon runs or not")
    status.add_argument("--json", action="store_true", help="as JSON")
    doctor = add("doctor", _doctor, "say what state the group, the cursor and all around them is in, and what it means")
    doctor.add_argument("--json", action="store_true", help="as JSON")
    proof = add(
        "proof",
        _proof,
        "check everything around the daemon, read-only, and keep the evidence",
        epilog="Exit codes: 0 every check passes, 1 one fails, 3 none fails but one can't tell.",
    )
    proof.add_argument("--json", action="store_true", help="as JSON on stdout, and no directory unless --out names one")
    proof.add_argument("--out", type=Path, metavar="DIR", help="a new directory for proof.json and report.txt")
    proof.add_argument("--drill", action="store_true", help="and an end-to-end run in a namespace of its own")
    add("purge-keys", _purge_keys, "remove the daemon's own keys; never a stream, the switch or an override")
    kill = add("kill", _kill, "throw the kill-switch: nothing is published any more, positions are still tracked")
    kill.add_argument("--reason", required=True, help="why; kept in the audit stream")
    add("arm", _arm, "release the kill-switch: set it to 0")
    release = add("release", _release, "give up an order of which nothing is heard: the next rung carries what is left")
    release.add_argument("intent", metavar="INTENT", help="its id, as status shows it")
    clear = add("clear", _clear, "trust a suspect symbol's books again; the rungs crossed by now are skipped")
    clear.add_argument("symbol", metavar="SYMBOL")
    for command in (release, clear):
        command.add_argument("--reason", required=True, help="why; kept in the audit stream")
    check = add(
        "check-config", _check, "print what is in force and where it comes from, or every fault", env_file=False
    )
    check.add_argument("env_file", type=Path, nargs="?", metavar="FILE")
    add("env-template", _template, "print the documented env file", env_file=False)
    add("acl", _acl, "print the Redis users that the daemon and its operator need, as lines of an ACL file")
    add("settings-table", _table, "print the settings as a Markdown table", env_file=False)
    add("health", _health, "say whether the daemon on this machine is well, by its status.json", env_file=False)
    commands.add_parser("demo", help="show the whole loop at work on a private Redis", add_help=False)
    return parser


def _load(options: argparse.Namespace) -> Loaded:
    return load(options.env_file, os.environ)


def _run(options: argparse.Namespace) -> int:
    return run(_load(options))


def _check(options: argparse.Namespace) -> int:
    sys.stdout.write(in_force(_load(options)))
    return 0


def _template(_: argparse.Namespace) -> int:
    sys.stdout.write(template())
    return 0


def _acl(options: argparse.Namespace) -> int:
    settings = _load(options).settings
    endpoint = settings.endpoint()
    sys.stdout.write(acl_text(settings.names(), settings.bounds(), endpoint.username, endpoint.password()))
    return 0


def _table(_: argparse.Namespace) -> int:
    sys.stdout.write(table())
    return 0


def _overview(options: argparse.Namespace) -> Overview:
    settings = _load(options).settings
    return overview(connect(settings.endpoint()), settings.names(), settings.mode)


def _status(options: argparse.Namespace) -> int:
    seen = _overview(options)
    print(json.dumps(seen.as_dict()) if options.json else seen.text())
    return 0


def _doctor(options: argparse.Namespace) -> int:
    settings = _load(options).settings
    names = settings.names()
    with closing(RedisTransport(make_connection(settings.endpoint()))) as transport:
        durable = durability(server_facts(transport))
    findings = examine(connect(settings.endpoint()), names, settings.mode, settings.start)
    findings += of_durability(durable, settings.mode)
    if options.json:
        print(json.dumps([finding._asdict() for finding in findings]))
    else:
        print("\n".join(finding.line() for finding in findings))
    return int(any(finding.trouble for finding in findings))


def _proof(options: argparse.Namespace) -> int:
    if options.out is not None and options.out.exists():
        print(f"--out {options.out}: it is there already; a new directory is wanted", file=sys.stderr)
        return 2
    found = proof.as_dict(proof.prove(options.env_file, os.environ, with_drill=options.drill))
    print(json.dumps(found, ensure_ascii=False) if options.json else proof.report(found), end="")
    directory = options.out
    if directory is None and not options.json:
        directory = Path(f"harvest-brain-proof-{found['at'].replace(':', '')}")
    if directory is not None:
        proof.write(directory, found)
        print(f"evidence: {directory}", file=sys.stderr)
    return proof.EXIT_CODES[found["verdict"]]


def _purge_keys(options: argparse.Namespace) -> int:
    settings = _load(options).settings
    print(f"removed {purge(connect(settings.endpoint()), settings.names())} keys")
    return 0


def _kill(options: argparse.Namespace) -> int:
    return _switch(load_switch(options.env_file, os.environ).settings, "1", "kill", options.reason)


def _arm(options: argparse.Namespace) -> int:
    seen = _overview(options)
    code = _switch(_load(options).settings, "0", "arm", "")
    print(f"mode {seen.mode}, {len(seen.positions)} open positions")
    return code


def _switch(settings: Settings, value: str, action: str, reason: str) -> int:
    """Set the kill-switch. Setting it to 1 must work whatever the key holds, so it is set first and audited after."""
    client = connect(settings.endpoint())
    key = settings.kill_switch_key
    try:
        before = client.get(key)
        was = "absent" if before is None else before.decode(errors="replace")  # type: ignore[union-attr]  # no awaitable
    except redis.ResponseError:
        was = "unreadable"
    client.set(key, value)
    print(f"{key} was {was}, is {value}")
    names = settings.names()
    try:
        control.audit(client, names, action, reason, was=was)
    except redis.RedisError as fault:
        print(f"{names.audit} can't be written: {explain(fault)}", file=sys.stderr)
        return 1
    return 0


def _release(options: argparse.Namespace) -> int:
    settings = _load(options).settings
    client, names, pending_sec = connect(settings.endpoint()), settings.names(), settings.pending_timeout_sec
    seen = overview(client, names, settings.mode)
    taken = control.release(client, names, seen, options.intent, options.reason, pending_sec=pending_sec)
    if taken and overview(client, names, settings.mode).order(options.intent) is not None:
        raise RefusedError(f"{options.intent} stays: something was heard of it meanwhile")
    print(f"{options.intent} is released; the next rung carries what was left of it" if taken else WAITS)
    return 0


def _clear(options: argparse.Namespace) -> int:
    settings = _load(options).settings
    client, names = connect(settings.endpoint()), settings.names()
    seen = overview(client, names, settings.mode)
    taken = control.clear(client, names, seen, options.symbol, options.reason)
    print(f"{options.symbol} is trusted again; the rungs crossed by now are skipped" if taken else WAITS)
    return 0


def _health(_: argparse.Namespace) -> int:
    directory = os.environ.get("RUNTIME_DIRECTORY", "").split(":")[0]
    if not directory:
        print("RUNTIME_DIRECTORY is not set, so there is no status.json to look at", file=sys.stderr)
        return 1
    path = Path(directory, "status.json")
    try:
        status = json.loads(path.read_text())
        # One from the future is from before the clock was set back.
        age = abs(time.time() - status["updated"])
        state, role, positions = status["state"], status["role"], status["positions"]
        evaluated = status["evaluated"]
        asked = f" (live was asked for: {status['because']})" if status["because"] else ""
        well = f"{status['mode']}{asked}, {role}, {positions} positions"
    except (OSError, ValueError, KeyError, TypeError) as fault:
        print(f"{path} can't be read: {fault!r}", file=sys.stderr)
        return 1
    if age > HEALTHY_WITHIN_SEC:
        print(f"no sign of life for {age:.0f} s", file=sys.stderr)
        return 1
    if state != "ready":
        print(state, file=sys.stderr)
        return 1
    if role == "leader" and evaluated is not None and time.time() - evaluated > UNPRICED_AFTER_SEC:
        quiet = time.time() - evaluated
        print(f"{positions} positions are open and none has had a price for {quiet:.0f} s", file=sys.stderr)
        return 1
    print(well)
    return 0
