"""Exported crontabs and units mean the same times as our own scheduler."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from orchestrator.errors import ScheduleError
from orchestrator.operations.schedule.clock import next_times
from orchestrator.operations.schedule.export import write_calendar, write_crontab, write_systemd
from orchestrator.operations.schedule.scheduler import ScheduledSweep
from orchestrator.spec.cron import parse_line
from orchestrator.spec.sections import ScheduleSpec

LINES = ["0 22 * * 1-5", "*/20 8-18/2 * * *", "30 2 1,15 * *", "5 4 * jan-mar sun", "0 0 */2 * 5", "0 0 13 * 5-7", "* * * * 7"]


def sweep(path: Path, cron: str = "0 22 * * 1-5", **options: object) -> ScheduledSweep:
    """A sweep of this name."""
    return ScheduledSweep(path.stem, path, ScheduleSpec.model_validate({"cron": cron, **options}))


@pytest.mark.parametrize("line", LINES)
def test_systemd_means_the_same_times(line: str) -> None:
    """The next ones, by systemd itself."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("there is no systemd-analyze here")
    events = write_calendar(parse_line(line), "Europe/Rome")
    found: set[datetime] = set()
    for event in events:
        done = subprocess.run(
            ["systemd-analyze", "calendar", "--iterations=6", "--base-time=2026-11-22 12:00:00 UTC", event],
            capture_output=True,
            text=True,
            check=False,
            env=os.environ | {"TZ": "UTC", "LC_ALL": "C"},
        )
        if "unrecognized option" in done.stderr:
            pytest.skip("this systemd-analyze knows no --base-time")
        assert done.returncode == 0, done.stderr
        stamps = re.findall(r"(?:Next elapse|Iter\S* #\d+): \w+ (\S+ \S+) UTC", done.stdout)
        found.update(datetime.fromisoformat(stamp).replace(tzinfo=UTC) for stamp in stamps)
    start = datetime(2026, 11, 22, 13, tzinfo=ZoneInfo("Europe/Rome"))
    assert sorted(found)[:6] == next_times(line, "Europe/Rome", since=start, count=6)


def test_a_crontab_runs_the_file_from_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With absolute paths of any characters, in its zone; cron's sign for a line break is escaped."""
    folder = tmp_path / "50 % of 'it'"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("ORCHESTRATE_HOME", "runs")
    monkeypatch.setenv("ORCHESTRATE_STORAGE", "postgresql://me:secret@host/db")
    text = write_crontab([sweep(folder / "b.yaml", timezone="Europe/Rome"), sweep(folder / "a.yaml", "5 4 * * sun", again=True)])
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    assert lines[0] == f"ORCHESTRATE_HOME={folder / 'runs'}"
    assert [line.partition(" cd ")[0] for line in lines[1:]] == ["5 4 * * sun", "CRON_TZ=Europe/Rome", "0 22 * * 1-5"]
    assert not re.search(r"(?<!\\)%", "".join(lines[1:]))
    assert shlex.split(lines[-1].replace("\\%", "%"))[6:8] == [str(folder), "&&"]
    assert str(folder / "b.yaml") in shlex.split(lines[-1].replace("\\%", "%"))
    assert "secret" not in text
    assert "ORCHESTRATE_STORAGE" in text

    command = lines[1].partition("sun ")[2].replace("\\%", "%")
    shown = subprocess.run(["sh", "-c", command.replace("&& ", "&& echo ", 1)], capture_output=True, text=True, check=True).stdout
    assert re.search(r"a\.yaml --again a@20\d\d-\d\d-\d\dT\d\d:\d\d[+-]\d\d:\d\d$", shown.strip())


def test_units_pass_systemds_own_check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Service and timer, with a folder whose name needs quoting."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("there is no systemd-analyze here")
    folder = tmp_path / 'a "folder" of 50 % $HOME'
    folder.mkdir()
    monkeypatch.chdir(folder)
    text = write_systemd([sweep(folder / "nightly.yaml", "0 0 13 * 5", timezone="Europe/Rome", again=True)])
    units = [unit for unit in text.split("\n\n# ~/.config/systemd/user/")[1:]]
    paths = []
    for unit in units:
        name, _, body = unit.partition("\n")
        (tmp_path / name).write_text("\n".join(line for line in body.splitlines() if not line.startswith("#")) + "\n")
        paths.append(str(tmp_path / name))
    assert [Path(path).suffix for path in paths] == [".service", ".timer"]
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", *paths], capture_output=True, text=True, check=False)
    assert not [line for line in done.stderr.splitlines() if "nightly" in line], done.stderr


def test_what_cannot_be_written_is_refused(tmp_path: Path) -> None:
    """A line break in a path would start another line."""
    for export in (write_crontab, write_systemd):
        with pytest.raises(ScheduleError, match="which cannot be exported"):
            export([sweep(tmp_path / "a\nb.yaml")])
