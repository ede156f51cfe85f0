"""All states that Redis, two daemons and what is between them can get into, and what must hold in each.

A step is one of: Redis carries out the next request of a daemon; a connection is cut, so that the reply is lost of what
was carried out, and what was on its way may still arrive, or not; a daemon is killed, with the same consequences, and
another one is started; a lease runs out; the kill-switch is thrown, and lifted; the marks of published claims run out;
the producers write. A daemon that sleeps past its lease needs no step of its own: it is one whose requests are not
carried out for a while. So are a slow network and a slow Redis.

Requests that neither change Redis nor see what daemons change (INFO, TYPE, SCRIPT LOAD, reads of the stream) commute
with every other step, so they are carried out at once: that leaves out interleavings, not behaviours. A read that
blocks, and a daemon that waits for the lease of another, wait for the step that wakes them.

Faults are rationed, which makes the instance finite. Within the ration nothing is left out: not sampled, enumerated.
"""

from __future__ import annotations

import json
from collections import Counter, deque
from collections.abc import Hashable, Iterator, Mapping
from hashlib import sha1
from typing import Generic, NamedTuple, TypeVar

from harvest_brain.redis import store as product
from tests.model.process import Process, Replayer
from tests.model.server import Command, Entry, Oracle, Reply, Server

_AT_ONCE = frozenset({b"INFO", b"CONFIG", b"TYPE", b"SCRIPT", b"XREAD", b"XGROUP", b"EXISTS", b"XINFO", b"XREVRANGE"})
_WITHOUT_EFFECT = _AT_ONCE | {b"HGETALL", b"GET", b"PTTL"}
MOST_STATES = 3_000_000

T = TypeVar("T", bound=Hashable)

# What was published, and the state's fields without the daemon's own (None: whatever they are).
Outcome = tuple[tuple[Entry, ...], frozenset[tuple[bytes, bytes]] | None]


class Ration(NamedTuple):
    """How many of each fault there may be on one path. `expiries` are of leases whose daemons live; that of a dead one
    may always run out. `forgets` are of the marks of all claims at once."""

    cuts: int = 0
    kills: int = 0
    expiries: int = 0
    throws: int = 0
    forgets: int = 0


class Ghost(NamedTuple):
    """What the daemon `token` had sent on a connection that is gone, in order."""

    token: bytes
    commands: tuple[Command, ...]


class World(NamedTuple):
    """One state of everything. `ghosts` are what is still on its way from connections that are gone; `born` counts the
    daemons there ever were, which gives each its token."""

    server: int
    processes: tuple[int, ...]
    ghosts: tuple[Ghost, ...]
    ration: Ration
    born: int
    thrown: bool = False


class Breach(NamedTuple):
    """What does not hold, and the steps that lead to it."""

    kind: str
    text: str
    path: tuple[str, ...]


class _Values(Generic[T]):
    """Values by number: worlds are compared a million times, and numbers compare fast."""

    def __init__(self) -> None:
        self._numbers: dict[T, int] = {}
        self._values: list[T] = []

    def number(self, value: T) -> int:
        found = self._numbers.setdefault(value, len(self._values))
        if found == len(self._values):
            self._values.append(value)
        return found

    def __getitem__(self, number: int) -> T:
        return self._values[number]

    def __len__(self) -> int:
        return len(self._values)


class Explorer:
    """The stream holds `first_half` entries at first; the others are written when those are taken in, with the switch
    lifted for good. `allowed` is what may be in the end: without a throw, and with one."""

    def __init__(
        self,
        oracle: Oracle,
        replayer: Replayer,
        *,
        first_half: int,
        allowed: Mapping[bool, frozenset[Outcome]],
        daemons: int = 2,
    ) -> None:
        self._oracle = oracle
        self._replayer = replayer
        self._first_half = first_half
        self._allowed = allowed
        self._daemons = daemons
        self._servers: _Values[Server] = _Values()
        self._processes: _Values[Process] = _Values()
        self._effects: dict[tuple[int, Command], tuple[int, Reply]] = {}
        # As the server names them.
        self._commit, self._look = (
            sha1(script.encode(), usedforsecurity=False).hexdigest().encode()
            for script in (product.COMMIT, product.LOOK)
        )
        self.states = 0
        self.steps: Counter[str] = Counter()
        self.replies: Counter[bytes] = Counter()  # what commits were answered with
        self.outcomes: set[tuple[Entry, ...]] = set()

    # The search.

    def explore(self, ration: Ration) -> Breach | None:
        """The shortest way to something that does not hold; None when all states were seen and there is none."""
        server = self._servers.number(Server(self._first_half))
        processes = [self._settled(server, Process(f"d{number}".encode())) for number in range(self._daemons)]
        start = World(server, self._ordered(processes), (), ration, self._daemons)
        came_from: dict[World, tuple[World, str] | None] = {start: None}
        before: dict[World, list[World]] = {}
        ends: list[World] = []
        queue = deque([start])
        while queue:
            world = queue.popleft()
            if self._is_end(world):
                ends.append(world)
                if why := self._what_is_wrong_at_the_end(world):
                    return Breach("outcome", why, _path(came_from, world))
            for step, after in self._steps(world):
                self.steps[_kind(step)] += 1
                if wrong := self._what_is_wrong(world, step, after):
                    return Breach(*wrong, (*_path(came_from, world), step))
                before.setdefault(after, []).append(world)
                if after not in came_from:
                    came_from[after] = world, step
                    queue.append(after)
                    assert len(came_from) < MOST_STATES, "the instance is too large"
        self.states = len(came_from)
        return self._stuck(came_from, before, ends)

    def _stuck(
        self,
        came_from: Mapping[World, tuple[World, str] | None],
        before: Mapping[World, list[World]],
        ends: list[World],
    ) -> Breach | None:
        """Every state must have a way on to an end: whatever happened, all that was produced can still be taken in."""
        alive = set(ends)
        queue = deque(ends)
        while queue:
            for world in before.get(queue.popleft(), ()):
                if world not in alive:
                    alive.add(world)
                    queue.append(world)
        stuck = next((world for world in came_from if world not in alive), None)
        return None if stuck is None else Breach("stuck", repr(self._servers[stuck.server]), _path(came_from, stuck))

    # Steps.

    def _steps(self, world: World) -> Iterator[tuple[str, World]]:
        yield from self._requests(world)
        yield from self._arrivals(world)
        yield from self._losses(world)
        yield from self._of_redis(world)

    def _requests(self, world: World) -> Iterator[tuple[str, World]]:
        """Redis carries out the next request of a daemon."""
        for place, number in enumerate(world.processes):
            process = self._processes[number]
            command = self._next_request(process)
            if not self._is_possible(world.server, process, command):
                continue
            server, reply = self._carry_out(world.server, command)
            went_on = process._replace(replies=(*process.replies, reply))
            label = self._label(process.token, command)
            if label.endswith("COMMIT") and isinstance(reply, tuple):
                self.replies[reply[0]] += 1
            yield label, self._with(world, server, place, went_on)

    def _arrivals(self, world: World) -> Iterator[tuple[str, World]]:
        """Something arrives after its connection is gone, or never."""
        for place, ghost in enumerate(world.ghosts):
            others = (*world.ghosts[:place], *world.ghosts[place + 1 :])
            yield f"{self._label(ghost.token, ghost.commands[0])} is lost", world._replace(ghosts=others)
            server, _ = self._carry_out(world.server, ghost.commands[0])
            left = _haunted(others, Ghost(ghost.token, ghost.commands[1:]))
            arrived = self._settled_all(world._replace(server=server, ghosts=left))
            yield f"{self._label(ghost.token, ghost.commands[0])} arrives late", arrived

    def _losses(self, world: World) -> Iterator[tuple[str, World]]:
        """A connection or a daemon is lost."""
        ration = world.ration
        for place, number in enumerate(world.processes):
            process = self._processes[number]
            asked = self._replayer.ask(process)
            on_its_way = tuple(
                command for command in asked.commands[len(process.replies) :] if self._has_effect(command)
            )
            without = world._replace(ghosts=_haunted(world.ghosts, Ghost(process.token, on_its_way)))
            if ration.cuts:
                again = self._replayer.restarted(process, process.published)
                yield (
                    f"{process.token.decode()} cut",
                    self._with(
                        without._replace(ration=ration._replace(cuts=ration.cuts - 1)), world.server, place, again
                    ),
                )
            if ration.kills:
                new = Process(f"d{world.born}".encode())
                spent = without._replace(ration=ration._replace(kills=ration.kills - 1), born=world.born + 1)
                yield f"{process.token.decode()} kill", self._with(spent, world.server, place, new)

    def _of_redis(self, world: World) -> Iterator[tuple[str, World]]:
        """Time passes in Redis; the operator and the producers write."""
        server, ration = self._servers[world.server], world.ration

        def after(changed: Server, **changes: object) -> World:
            moved = world._replace(server=self._servers.number(changed), **changes)  # type: ignore[arg-type]
            return self._settled_all(moved)

        if server.lease:
            lives = server.lease in {self._processes[number].token for number in world.processes}
            if not lives or ration.expiries:
                left = ration._replace(expiries=ration.expiries - 1) if lives else ration
                yield "lease expires", after(server._replace(lease=b""), ration=left)
        if server.kill == b"0" and ration.throws:
            left = ration._replace(throws=ration.throws - 1)
            yield "switch thrown", after(server._replace(kill=b"1"), ration=left, thrown=True)
        if server.kill == b"1":
            yield "switch lifted", after(server._replace(kill=b"0"))
        claims = self._oracle.names.claim("").encode()
        kept = frozenset(mark for mark in server.marks if not mark[0].startswith(claims))
        if ration.forgets and kept != server.marks:
            left = ration._replace(forgets=ration.forgets - 1)
            yield "claims forgotten", after(server._replace(marks=kept), ration=left)
        if server.produced == self._first_half and self._is_taken_in(server) and server.kill == b"0":
            left = ration._replace(throws=0)
            yield "rest produced", after(server._replace(produced=len(self._oracle.entries)), ration=left)

    # Daemons.

    def _with(self, world: World, server: int, place: int, process: Process) -> World:
        """The world with another server, and another process in one place; whoever can go on at once does."""
        changed = [self._processes[number] for number in world.processes]
        changed[place] = process
        settled = [self._settled(server, each) for each in changed]
        return world._replace(server=server, processes=self._ordered(settled))

    def _settled_all(self, world: World) -> World:
        settled = [self._settled(world.server, self._processes[number]) for number in world.processes]
        return world._replace(processes=self._ordered(settled))

    def _ordered(self, processes: list[Process]) -> tuple[int, ...]:
        """Which place a daemon has says nothing."""
        return tuple(sorted(self._processes.number(process) for process in processes))

    def _settled(self, server: int, process: Process) -> Process:
        """The process after all that commutes: requests that change nothing and see nothing of what daemons change."""
        while True:
            asked = self._replayer.ask(process)
            if asked.ended:
                process = asked.next_process
                continue
            command = asked.commands[len(process.replies)]
            if command[0] not in _AT_ONCE:
                return process
            reply = self._carry_out(server, _without_block(command))[1]
            if reply is None and b"BLOCK" in command:
                return process
            process = process._replace(replies=(*process.replies, reply))

    def _next_request(self, process: Process) -> Command:
        return self._replayer.ask(process).commands[len(process.replies)]

    def _is_possible(self, server: int, process: Process, command: Command) -> bool:
        """A blocking read waits for an entry; who asks for a lease that another one holds will ask again."""
        if command[0] == b"XREAD":
            return False
        if command[0] == b"SET" and b"NX" in command and command[1].decode() == self._oracle.names.lease:
            return self._servers[server].lease in (b"", process.token)
        return True

    def _carry_out(self, server: int, command: Command) -> tuple[int, Reply]:
        if (server, command) not in self._effects:
            after, reply = self._oracle.carry_out(self._servers[server], command)
            self._effects[server, command] = self._servers.number(after), reply
        return self._effects[server, command]

    def _has_effect(self, command: Command) -> bool:
        return command[0] not in _WITHOUT_EFFECT and command[:2] != (b"EVALSHA", self._look)

    def _label(self, token: bytes, command: Command) -> str:
        name = command[0].decode()
        if name == "EVALSHA":
            name = "COMMIT" if command[1] == self._commit else "LOOK"
        return f"{token.decode()} {name}"

    # What must hold.

    def _what_is_wrong(self, world: World, step: str, after: World) -> tuple[str, str] | None:
        was, now = self._servers[world.server], self._servers[after.server]
        if was is now or was == now:
            return None
        fresh = now.outputs[len(was.outputs) :]
        names = [json.loads(entry[4])["correlation_id"] for entry in now.outputs]
        if len(set(names)) < len(names):
            return "twice", f"published: {names}"
        if fresh and was.kill != b"0":
            return "kill-switch", f"{names[-1]} behind the switch"
        if len(set(now.letters)) < len(now.letters):
            return "twice", f"dead letters: {now.letters}"
        if now.state != was.state and step.split(maxsplit=1)[0].encode() != was.lease:
            return "fencing", f"{step}, though {was.lease!r} leads"
        return None

    def _is_taken_in(self, server: Server) -> bool:
        """Whether the stored cursor is at the last entry."""
        meta = dict(server.state).get(b"_meta")
        last = self._oracle.entries[server.produced - 1][0]
        return meta is not None and json.loads(meta)["cursors"][self._oracle.names.executions] == last

    def _is_end(self, world: World) -> bool:
        server = self._servers[world.server]
        return not world.ghosts and server.produced == len(self._oracle.entries) and self._is_taken_in(server)

    def _what_is_wrong_at_the_end(self, world: World) -> str:
        server = self._servers[world.server]
        self.outcomes.add(server.outputs)
        state = frozenset(field for field in server.state if field[0] != b"_meta")
        if not self._allowed[world.thrown].isdisjoint({(server.outputs, state), (server.outputs, None)}):
            return ""
        return f"published: {[entry[4].decode() for entry in server.outputs]}\nstate: {sorted(state)}"


def _haunted(ghosts: tuple[Ghost, ...], ghost: Ghost) -> tuple[Ghost, ...]:
    """With one more, if it has anything to say. Their order among each other says nothing."""
    return tuple(sorted((*ghosts, ghost))) if ghost.commands else ghosts


def _without_block(command: Command) -> Command:
    at = command.index(b"BLOCK") if b"BLOCK" in command else len(command)
    return (*command[:at], *command[at + 2 :])


def _kind(step: str) -> str:
    """The step without the name of who takes it."""
    first, _, rest = step.partition(" ")
    return rest if first[1:].isdecimal() else step


def _path(came_from: Mapping[World, tuple[World, str] | None], world: World) -> tuple[str, ...]:
    steps: list[str] = []
    while (last := came_from[world]) is not None:
        world, step = last
        steps.append(step)
    return tuple(reversed(steps))
