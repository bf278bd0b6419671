"""Messages about the end of a sweep, received by a real HTTP server; no address is ever shown."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from orchestrator.cli import main
from orchestrator.dispatch.loop.ports import SweepOutcome, TrialOutcome
from orchestrator.dispatch.notifications import VARIABLE, Message, describe_end, describe_failure, open_services
from orchestrator.dispatch.summary import SweepReport
from orchestrator.errors import DataError, SpecError
from orchestrator.spec import SweepSpec, load_spec
from orchestrator.state.home import Home
from orchestrator.state.trial.records import TrialState
from tests.orchestrator.conftest import SECRET, Chat
from tests.orchestrator.dispatch.loop.conftest import a_result
from tests.orchestrator.dispatch.loop.conftest import spec as trial

MESSAGE = Message("losses: done", "4 complete", "success")


@pytest.fixture(autouse=True)
def _nobody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody is notified about the tests."""
    monkeypatch.delenv(VARIABLE, raising=False)


@pytest.fixture
def read(tmp_path: Path) -> Callable[..., SweepSpec]:
    """Read a sweep file."""

    def read(text: str, *options: str) -> SweepSpec:
        path = tmp_path / "losses.yaml"
        path.write_text(text)
        return load_spec(path, options)

    return read


def send(spec: SweepSpec, environment: dict[str, str]) -> list[str | None]:
    """Send the message to each service; returns what failed."""
    return [service.send(MESSAGE) for service in open_services(spec, environment)]


def test_each_address_gets_the_message_once(chat: Chat, read: Callable[..., SweepSpec]) -> None:
    """Addresses in the file, in its variables and in the environment."""
    spec = read(f"notify: ['${{CHAT}}', 'json://${{WHO}}:{SECRET}@127.0.0.1:{chat.server.server_port}/other']\n")
    environment = {VARIABLE: f"{chat.address} ", "CHAT": chat.address, "WHO": "me"}
    assert send(spec, environment) == [None, None]
    assert [(got["title"], got["message"], got["type"]) for got in chat.received] == [
        ("losses: done", "4 complete", "success")
    ] * 2


def test_without_addresses_nothing_is_sent(chat: Chat, read: Callable[..., SweepSpec]) -> None:
    """Apprise is not needed either."""
    assert send(read("name: a\n"), {}) == []


@pytest.mark.parametrize("status", [500, 404, None])
def test_a_failed_message_is_a_warning(
    chat: Chat,
    read: Callable[..., SweepSpec],
    status: int | None,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """It names the entry, and neither it nor any log shows the address. None: no server listens."""
    caplog.set_level(logging.NOTSET)
    address = chat.address if status else f"json://somebody:{SECRET}@127.0.0.1:9/{SECRET}"
    chat.status = status or 0
    [trouble] = send(read("name: a\nnotify: ${CHAT}\n"), {"CHAT": address})
    assert trouble is not None
    assert "losses.yaml:2: notify[0] (JSON) could not be notified" in trouble
    assert SECRET not in trouble + caplog.text + "".join(capfd.readouterr())


@pytest.mark.parametrize(
    ("text", "options", "pieces"),
    [
        (f"notify: jsno://u:{SECRET}@host\n", (), ("losses.yaml:1: notify[0]", "'jsno' is not one", "Did you mean 'json'?")),
        (f"name: a\nnotify: [{SECRET}]\n", (), ("losses.yaml:2: notify[0]", "does not begin with a service")),
        (f"notify: slack://{SECRET}\n", (), ("losses.yaml:1: notify[0]", "after slack:// is missing or wrong")),
        ("notify: '${NO_SUCH}'\n", (), ("losses.yaml:1: notify[0] names ${NO_SUCH}", "Set NO_SUCH")),
        ("name: a\n", (f"notify=slack://{SECRET}",), ("--set notify: notify[0]", "after slack://")),
    ],
)
def test_an_unusable_address_is_explained(
    read: Callable[..., SweepSpec],
    text: str,
    options: tuple[str, ...],
    pieces: tuple[str, ...],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """With its place and what is wrong with it, without showing it."""
    caplog.set_level(logging.NOTSET)
    with pytest.raises(SpecError) as caught:
        open_services(read(text, *options), {})
    assert [piece for piece in pieces if piece not in str(caught.value)] == []
    assert SECRET not in str(caught.value) + caplog.text


@pytest.mark.parametrize(
    "option",
    [
        f"notify={{url: slack://{SECRET}}}",
        f"notify=[slack://{SECRET}",
        f"notify.x={SECRET}",
        f"notify {SECRET}",
        f"notify=!!int {SECRET}",
    ],
)
def test_no_complaint_about_the_file_shows_an_address(read: Callable[..., SweepSpec], option: str) -> None:
    """However it is mistyped."""
    with pytest.raises(SpecError, match=r"^--set notify: ") as caught:
        read(f"notify: slack://{SECRET}\n", option)
    assert SECRET not in str(caught.value)


def test_a_spec_does_not_write_its_addresses(read: Callable[..., SweepSpec]) -> None:
    """A dumped spec is stored and shown."""
    spec = read(f"notify: slack://{SECRET}\n")
    assert SECRET not in repr(spec) + spec.model_dump_json()


def report(**changed: Any) -> SweepReport:
    """A sweep that ended."""

    def outcome(name: str, state: TrialState, miou: float | None, reason: str | None = None) -> TrialOutcome:
        result = None if miou is None else a_result(name, miou)
        return TrialOutcome(trial(name), state, result, 1, reason)

    done = outcome("dice", TrialState.COMPLETE, 0.61234)
    better = outcome("focal", TrialState.CACHED, 0.7)
    failed = outcome("mine", TrialState.FAILED, None, "ValueError: no postgresql://u:hunter2@h/db")
    parts: dict[str, Any] = {"trials": (done, better, failed), "interrupted": False, "wall_s": 3725.0}
    return SweepReport("losses", SweepOutcome(**(parts | changed)))


def test_a_message_has_the_essentials(tmp_path: Path) -> None:
    """Counts, time, the best trial, reasons of failures, where to look; no password."""
    message = describe_end(report(), Home(tmp_path, tracking="http://me:hunter2@server:5000"))
    assert (message.title, message.kind) == ("losses: ended, 1 of 3 trials failed", "warning")
    assert message.body.splitlines() == [
        "1 complete, 1 cached, 1 failed in 1 h 2 min",
        "best: focal, val/miou 0.7000",
        "failed: mine: ValueError: no postgresql://u:***@h/db",
        "Where to look: orchestrate report losses; http://me:***@server:5000",
    ]


@pytest.mark.parametrize(
    ("changed", "title", "kind"),
    [
        ({"trials": ()}, "losses: done", "success"),
        ({"interrupted": True}, "losses: interrupted", "warning"),
        ({"halted": "the disk is full"}, "losses: halted", "failure"),
    ],
)
def test_each_end_has_its_title(tmp_path: Path, changed: dict[str, Any], title: str, kind: str) -> None:
    """And its kind."""
    message = describe_end(report(**changed), Home(tmp_path))
    assert (message.title, message.kind) == (title, kind)


def test_an_interruption_before_the_first_trial_is_reported(tmp_path: Path) -> None:
    """As an interruption, not as a failure; an error by its message."""
    assert describe_failure("losses", KeyboardInterrupt(), Home(tmp_path)).title == "losses: interrupted"
    message = describe_failure("losses", DataError("tiles.npz: not found"), Home(tmp_path))
    assert (message.title, message.body.splitlines()[0]) == ("losses: failed", "tiles.npz: not found")


def run_sweep(folder: Path, text: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    """The command's message about a sweep that it refuses."""
    (folder / "losses.yaml").write_text(text)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("ORCHESTRATE_HOME", str(folder / "home"))
    monkeypatch.setattr("sys.argv", ["orchestrate", "sweep", "losses.yaml", "--launcher", "inline"])
    with pytest.raises(SystemExit) as exited:
        main()
    assert exited.value.code == 2
    return capsys.readouterr().err


def test_a_sweep_that_cannot_begin_is_reported(
    chat: Chat, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A scheduled sweep has nobody at the terminal."""
    monkeypatch.setenv("CHAT", chat.address)
    said = run_sweep(tmp_path, "data: {source: nowhere.npz}\nnotify: ${CHAT}\n", monkeypatch, capsys)
    assert chat.received[0]["title"] == "losses: failed"
    assert "nowhere.npz" in chat.received[0]["message"]
    assert SECRET not in said


def test_a_bad_address_stops_the_sweep_before_anything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing is written, and no data are read."""
    said = run_sweep(tmp_path, f"notify: slack://{SECRET}\n", monkeypatch, capsys)
    assert "losses.yaml:1: notify[0] is not an address that Apprise can use" in said
    assert SECRET not in said
    assert not (tmp_path / "home").exists()
