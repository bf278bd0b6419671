"""Blows at random moments to random processes of a sweep, which is started again whenever it has ended."""

from __future__ import annotations

import contextlib
import random
import signal
import time
from dataclasses import dataclass, field

import psutil

from tests.chaos.scene import Ended, Role, Scene

MACHINE = "machine"
"""As what is struck: all processes at once, the server's too."""

KILL, TERM, INT = signal.SIGKILL, signal.SIGTERM, signal.SIGINT

SIGNALS: dict[str, tuple[tuple[signal.Signals, ...], ...]] = {
    Role.DISPATCHER: ((KILL,), (TERM,), (INT,), (INT, INT)),
    Role.FORKSERVER: ((KILL,), (TERM,)),
    Role.WORKER: ((KILL,), (TERM,), (INT,)),
    Role.SERVER: ((KILL,), (TERM,)),
    MACHINE: ((KILL,),),
}
"""With what each may be struck; two signals come a second apart."""

SHARES: dict[str, int] = {Role.DISPATCHER: 3, Role.FORKSERVER: 3, Role.WORKER: 6, Role.SERVER: 1, MACHINE: 1}
"""How often each is struck where all are there; workers are not, while a sweep starts."""

LONGEST_OUTAGE_S = 20.0
"""Of the tracking server."""

EXIT_CODES = {KILL: {-KILL, 0}, TERM: {-TERM, 130, 0}, INT: {-INT, 130, 0}}
"""What a command may end with whose dispatcher was struck: 0 where it was through already."""


@dataclass(frozen=True)
class Blow:
    """What was struck, with what, how long after the beginning."""

    victim: str
    signals: tuple[signal.Signals, ...]
    time_s: float

    @property
    def kind(self) -> str:
        return f"{self.victim} {' '.join(number.name for number in self.signals)}"

    @property
    def hits_command(self) -> bool:
        return self.victim in (Role.DISPATCHER, MACHINE)

    def __str__(self) -> str:
        return f"{self.time_s:6.1f} s  {self.kind}"


@dataclass
class Moment:
    """``delay_s`` after so many epochs have been told, or from now on where they have been."""

    delay_s: float
    after_epochs: int
    _from_s: float | None = None

    def has_come(self, scene: Scene) -> bool:
        if self._from_s is None and scene.num_epochs() >= self.after_epochs:
            self._from_s = time.monotonic()
        return self._from_s is not None and time.monotonic() >= self._from_s + self.delay_s


@dataclass
class Storm:
    """Strikes one scene ``num_blows`` times, or fewer where the sweep is done before.

    pause_s: the longest wait for a blow. Whatever a command leaves behind that it must not is found when it has ended.
    """

    scene: Scene
    rng: random.Random
    num_blows: int
    pause_s: float
    blows: list[Blow] = field(default_factory=list)

    def rage(self) -> None:
        """Start the sweep again and again, until it has come to its end."""
        self._began_s = time.monotonic()
        self._server_back_s = self._began_s
        finished: dict[str, bytes] = {}
        while True:
            num_before = len(self.blows)
            ended = self._run_once()
            left = self.scene.wait_for_silence()
            assert not left, f"orphans: {[(process.pid, process.cmdline()) for process in left]}\n{self}"
            hits = [blow for blow in self.blows[num_before:] if blow.hits_command]
            self._check_end(ended, hits)
            results = self.scene.results()
            assert finished == {key: results.get(key) for key in finished}, f"a finished trial was run again\n{self}"
            finished = results
            if ended.code == 0:
                return

    def _run_once(self) -> Ended:
        command = self.scene.start()
        moment = self._draw_moment()
        while command.is_running:
            self._raise_server()
            if len(self.blows) < self.num_blows and moment.has_come(self.scene):
                self._strike()
                moment = self._draw_moment()
            time.sleep(0.02)
        return command.wait()

    def _draw_moment(self) -> Moment:
        """At any time; but twice as often while something is trained, since most of the time of such a short sweep is not."""
        if self.rng.random() < 1 / 3:
            return Moment(self.rng.uniform(0, self.pause_s), after_epochs=0)
        return Moment(self.rng.uniform(0, self.pause_s / 4), after_epochs=self.scene.num_epochs() + 1)

    def _strike(self) -> None:
        present: dict[str, list[psutil.Process]] = {str(role): found for role, found in self.scene.processes().items()}
        if Role.DISPATCHER not in present:  # it has just ended
            return
        present[MACHINE] = self.scene.marked()
        victims = sorted(present)
        [victim] = self.rng.choices(victims, weights=[SHARES[victim] for victim in victims])
        numbers = self.rng.choice(SIGNALS[victim])
        blow = Blow(victim, numbers, time.monotonic() - self._began_s)
        self.blows.append(blow)
        print(f"{blow}, after {self.scene.num_epochs()} epochs", flush=True)
        if victim in (Role.SERVER, MACHINE):
            self._fell_server(numbers[0])
        targets = present[victim] if victim == MACHINE else [self.rng.choice(present[victim])]
        for index, number in enumerate(numbers):
            time.sleep(min(index, 1))
            for process in targets:
                _send(process, number)

    def _fell_server(self, number: signal.Signals) -> None:
        if self.scene.server is not None and self.scene.server.is_started:
            self.scene.server.kill(number)
        self._server_back_s = time.monotonic() + self.rng.uniform(0, LONGEST_OUTAGE_S)

    def _raise_server(self) -> None:
        server = self.scene.server
        if server is not None and not server.is_started and time.monotonic() > self._server_back_s:
            server.kill()
            server.start(is_awaited=False)

    def _check_end(self, ended: Ended, hits: list[Blow]) -> None:
        allowed = set().union(*(EXIT_CODES[number] for blow in hits for number in blow.signals)) or {0}
        assert ended.code in allowed, f"exit code {ended.code}, expected one of {allowed}\n{ended.stderr}\n{self}"
        is_telling = "Traceback" in ended.stderr and "KeyboardInterrupt" not in ended.stderr  # Ctrl-C before our first line
        assert not is_telling, f"{ended.stderr}\n{self}"

    def __str__(self) -> str:
        return "\n".join(["blows so far:", *map(str, self.blows)])


def _send(process: psutil.Process, number: signal.Signals) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):  # it was quicker
        process.send_signal(number)
