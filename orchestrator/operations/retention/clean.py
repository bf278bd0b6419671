"""``orchestrate clean``, and the ``keep`` rule at the end of a sweep: finds, announces, deletes and reports."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group
from rich.table import Column, Table
from rich.text import Text

from orchestrator.errors import SpecError, TrackingError
from orchestrator.operations.retention.checkpoints import DEFAULT, CheckpointFinder
from orchestrator.operations.retention.reclaimable import Reclaimable, ReclaimableKind, Skipped, find_on_disk, find_unpacked
from orchestrator.operations.retention.removal import remove, remove_shared
from orchestrator.spec.sections import Rule
from orchestrator.state.disk import free_bytes
from orchestrator.state.home import Home
from orchestrator.state.ledger import Ledger
from orchestrator.state.units import format_bytes, format_count
from orchestrator.tracking.location import TrackingLocation

if TYPE_CHECKING:
    from orchestrator.tracking.checkpoints.retention import CheckpointRecords


@dataclass(frozen=True)
class CleanReport:
    """What was found and what of it was deleted. free_before, free_after: free bytes on the home's disk."""

    home: Home
    items: tuple[Reclaimable, ...]
    removed: tuple[Reclaimable, ...]
    skipped: tuple[Skipped, ...]
    dry_run: bool
    free_before: int
    free_after: int

    def to_json(self) -> dict[str, Any]:
        """The document of ``clean --json``."""
        gone = {item.path for item in self.removed}
        return {
            "home": str(self.home.root),
            "dry_run": self.dry_run,
            "found_bytes": _add_up(self.items),
            "freed_bytes": _add_up(self.removed),
            "disk_free_before_bytes": self.free_before,
            "disk_free_after_bytes": self.free_after,
            "found": [
                {
                    "kind": item.kind.name,
                    "trial": item.key,
                    "path": str(item.path),
                    "bytes": item.num_bytes,
                    "reason": item.reason,
                    "removed": item.path in gone,
                }
                for item in self.items
            ],
            "skipped": [asdict(one) for one in self.skipped],
        }

    def render(self) -> Group:
        """What ``clean`` prints for people."""
        parts: list[Any] = [_draw(self.items)] if self.items else []
        if self.dry_run:
            parts.append(
                f"{self.home.root}: would free {format_bytes(_add_up(self.items))}; {format_bytes(self.free_before)} are free now"
            )
        else:
            freed = f"freed {format_bytes(_add_up(self.removed))}" if self.items else "nothing to free"
            free = f"{format_bytes(self.free_before)} were free on its disk, now {format_bytes(self.free_after)}"
            parts.append(f"{self.home.root}: {freed}; {free}")
        parts += [f"skipped: {one.what}: {one.why}" for one in self.skipped]
        return Group(*(Text(part) if isinstance(part, str) else part for part in parts))


def clean(home: Home, sweeps: Sequence[str], *, dry_run: bool, console: Console) -> CleanReport:
    """Delete what can be made or fetched again, and checkpoints that no sweep keeps.

    sweeps: delete only what belongs to their trials; if empty everything, including caches and prepared data. console: shows
    what will be deleted.

    Raises:
        SpecError: there is no such sweep.
        TrackingError: the ledger cannot be opened.
    """
    if not home.root.is_dir():
        raise SpecError(f"{home.root}: not found. Clean where the sweeps ran, or set ORCHESTRATE_HOME.")
    free_before = free_bytes(home.root)
    ledger, cleared = _open_ledger(home, may_clear=not (sweeps or dry_run))
    ledger.check_sweeps(sweeps)
    keys = {key for name in sweeps for key in ledger.members(name)} if sweeps else None
    records: CheckpointRecords | None = None
    found: list[Reclaimable | Skipped] = []  # the most important first
    try:
        if home.tracking is not None or home.mlflow_db.exists():
            records = _open_records(home)
            checkpoints = CheckpointFinder(home, ledger, records, keys)
            found += checkpoints.find_not_kept()
            found += checkpoints.find_copies()
    except TrackingError as error:
        found.append(Skipped("checkpoints that MLflow has as well, or that `keep` does not keep", str(error)))
    found += find_on_disk(home, ledger, keys)
    skipped = [one for one in found if isinstance(one, Skipped)]
    items: dict[Path, Reclaimable] = {}
    for one in found:
        if isinstance(one, Reclaimable):
            items.setdefault(one.path, one)  # of several for one path the first names the reason
    removed: list[Reclaimable] = []
    if items and not dry_run:
        console.print(f"freeing {format_bytes(_add_up(items.values()))} in {len(items)} files and folders", highlight=False)
        removed, more = remove(list(items.values()), home, ledger, records)
        skipped += more
    every, gone = (*cleared, *items.values()), (*cleared, *removed)
    return CleanReport(home, every, gone, tuple(skipped), dry_run, free_before, free_bytes(home.root))


def _open_ledger(home: Home, *, may_clear: bool) -> tuple[Ledger, list[Reclaimable]]:
    """The ledger, and what had to be deleted before it could be opened, because the disk was full."""
    try:
        return Ledger(home.ledger_url), []
    except TrackingError as error:
        cleared = remove_shared(list(find_unpacked(home)), home)[0] if may_clear else []
        if not cleared:
            free = format_bytes(free_bytes(home.root))
            raise TrackingError(f"{error} {free} are free on its disk: if it is full, remove one file by hand first.") from error
        return Ledger(home.ledger_url), cleared


def apply_keep(home: Home, sweep: str) -> tuple[list[Reclaimable], list[Skipped]]:
    """Delete the checkpoints of a sweep's trials that nothing keeps; returns what was deleted, and what was skipped.

    Raises:
        TrackingError: MLflow or the ledger cannot be used; nothing was deleted.
    """
    ledger, records = Ledger(home.ledger_url), _open_records(home)
    items = list(CheckpointFinder(home, ledger, records, ledger.members(sweep)).find_not_kept())
    return remove(items, home, ledger, records)


def keep_at_end(home: Home, sweep: str, rule: Rule) -> list[str]:
    """Apply a sweep's rule at its end; returns lines for people. ``clean`` deletes later what cannot be deleted now."""
    if rule == DEFAULT:
        return []
    try:
        removed, skipped = apply_keep(home, sweep)
    except TrackingError as error:
        return [f"keep: {{checkpoints: {rule}}} is not applied yet; `orchestrate clean` will do it: {error}"]
    return [
        f"keep: {{checkpoints: {rule}}}: {format_count(len(removed), 'file')} deleted, {format_bytes(_add_up(removed))}",
        *(f"skipped: {one.what}: {one.why}" for one in skipped),
    ]


def _open_records(home: Home) -> CheckpointRecords:
    from orchestrator.tracking.checkpoints.retention import CheckpointRecords  # imports mlflow, which takes seconds

    return CheckpointRecords(TrackingLocation.of(home))


def _add_up(items: Iterable[Reclaimable]) -> int:
    return sum(item.num_bytes for item in items)


def _draw(items: Sequence[Reclaimable]) -> Table:
    right = [Column(title, justify="right") for title in ("files", "size")]
    table = Table("what", *right, box=None, padding=(0, 2), header_style="dim")
    for kind in ReclaimableKind:
        some = [item for item in items if item.kind is kind]
        if some:
            table.add_row(kind.value, str(len(some)), format_bytes(_add_up(some)))
    return table
