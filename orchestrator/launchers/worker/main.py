"""Trains the trial in a folder with trainers.training.train and records how it ended; needs no server and no database."""

from __future__ import annotations

import itertools
import os
import socket
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from orchestrator.launchers.worker import process
from orchestrator.launchers.worker.contract import ExitCode, Slot
from orchestrator.state.files import try_lock
from orchestrator.state.machine import library_versions
from orchestrator.state.trial.checkpoint import note_checkpoint
from orchestrator.state.trial.endings import fail, leave_waiting, leave_without_space, log_traceback, record_result
from orchestrator.state.trial.failures import FailureKind, classify, describe, is_disk_full
from orchestrator.state.trial.folder import TrialFile, TrialFolder
from orchestrator.state.trial.heartbeat import Heartbeat
from orchestrator.state.trial.records import Attempt, Event, TrialState, read_number

if TYPE_CHECKING:  # torch is imported when the slot is taken, not before
    from trainers.data import SplitData
    from trainers.training.train import EpochReport, TrainResult

ShouldStop = Callable[[], bool]

OnPeak = Callable[[float], int | None]
"""Gets the largest GPU memory that an attempt has used so far, in MB; returns what its slot has reserved from now on."""


def run(folder: Path, slot: Slot, *, on_peak: OnPeak) -> int:
    """Work in a process of the local launcher: bound to its slot and its dispatcher, printing into the folder's log."""
    should_stop = process.stop_on_sigterm()
    process.die_with_dispatcher()
    process.offer_to_oom_killer()
    return run_hosted(folder, slot, should_stop, on_peak=on_peak)


def run_hosted(folder: Path, slot: Slot, should_stop: ShouldStop, *, on_peak: OnPeak = lambda _: None) -> int:
    """Work in a process that a scheduler has started and ends: bound to its slot, printing into the folder's log."""
    process.take_slot(slot)
    process.write_to_log(TrialFolder(folder).path / TrialFile.LOG)
    code = work(folder, slot, should_stop, on_peak=on_peak)
    if code is ExitCode.DISK_FULL:
        process.drop_output()  # buffered output could not be written, and would change the exit code
    return code


def work(folder: Path, slot: Slot, should_stop: ShouldStop, *, on_peak: OnPeak = lambda _: None) -> ExitCode:
    """Train the trial in ``folder``, or resume it; any error becomes the trial's result.

    A full disk is not the trial's failure, and may leave no space to record it: then only the exit code reports it.
    should_stop: called after every epoch; True ends the attempt with a checkpoint. on_peak: called after every epoch.
    """
    trial = TrialFolder(folder)
    lock = try_lock(trial.path / TrialFile.LOCK)
    if lock is None:
        return ExitCode.LOCKED
    try:
        result = trial.result()
        if result is None:
            return _attempt(trial, slot, should_stop, on_peak)
        return ExitCode.FAILED if result.state is TrialState.FAILED else ExitCode.COMPLETE
    finally:
        lock.release()


def _attempt(trial: TrialFolder, slot: Slot, should_stop: ShouldStop, on_peak: OnPeak) -> ExitCode:
    attempt = trial.attempt()
    try:
        with Heartbeat(trial.path / TrialFile.HEARTBEAT, limit_s=attempt.silence_s) as heartbeat:
            facts = {"host": socket.gethostname(), "pid": os.getpid(), "slot": slot.name, "num_threads": slot.num_threads}
            facts |= {"gpu": slot.visible_devices, "memory_mb": slot.memory_mb} if slot.visible_devices else {}
            facts |= {"origin": attempt.origin} if attempt.origin else {}
            trial.append(Event(kind="attempt_started", time_s=time.time(), attempt=attempt.number, facts=facts))
            terms = f": {attempt.deviation}" if attempt.deviation else ""
            print(f"--- attempt {attempt.number} on {slot.name}, process {os.getpid()}{terms}", flush=True)
            if attempt.origin:
                print(attempt.origin, flush=True)
            if should_stop():
                leave_waiting(trial, attempt.number, reason="stopped")
                return ExitCode.STOPPED
            return _train(trial, attempt, slot, should_stop=should_stop, on_peak=on_peak, heartbeat=heartbeat)
    except (Exception, SystemExit, KeyboardInterrupt) as error:  # a failed trial is a result, and the sweep continues
        try:
            return _end_failed(trial, attempt.number, error, slot)
        except Exception as second:
            if not is_disk_full(second):
                raise
            leave_without_space(trial, attempt.number, second)
            return ExitCode.DISK_FULL


def _train(
    trial: TrialFolder, attempt: Attempt, slot: Slot, *, should_stop: ShouldStop, on_peak: OnPeak, heartbeat: Heartbeat
) -> ExitCode:
    from orchestrator.launchers.worker.validation import add_flips, write_validation
    from trainers.data import open_dataset, split_dataset
    from trainers.device import Compute
    from trainers.training.train import Callbacks, Continue, train

    spec = trial.spec()
    data = split_dataset(open_dataset(Path(attempt.data_folder)), spec.data, spec.fold)
    heartbeat.beat()
    reached = 0

    def on_epoch(report: EpochReport) -> Continue:
        nonlocal reached
        heartbeat.beat()
        reached = report.epoch
        facts: dict[str, Any] = {"is_best": report.is_best, "val_s": round(report.val_s, 4)}
        if slot.visible_devices:  # a GPU: what was used of it, and what the attempt may use
            facts |= {"peak_memory_mb": round(report.peak_memory_mb), "memory_mb": on_peak(report.peak_memory_mb)}
        now_s, number = time.time(), attempt.number
        trial.append(Event(kind="epoch", time_s=now_s, attempt=number, epoch=reached, metrics=report.metrics, facts=facts))
        return Continue.STOP if should_stop() else Continue.YES

    trained = train(
        spec.train,
        data,
        seed=spec.seed,
        folder=trial.path,
        compute=Compute(slot.device, slot.num_threads, attempt.accumulate),
        checkpoint_interval_s=attempt.checkpoint_s,
        callbacks=Callbacks(on_epoch, on_checkpoint=lambda: note_checkpoint(trial, reached), on_step=heartbeat.beat),
    )
    if trained.stopped:
        leave_waiting(trial, attempt.number, reason="stopped")
        return ExitCode.STOPPED
    heartbeat.beat()
    write_validation(trial, trained, data)
    trained = add_flips(trial, trained, data, slot=slot, on_batch=heartbeat.beat)
    return _end_complete(trial, attempt.number, trained, data)


def _end_complete(trial: TrialFolder, attempt: int, trained: TrainResult, data: SplitData) -> ExitCode:
    ended_s = time.time()
    record_result(
        trial,
        attempt,
        TrialState.COMPLETE,
        ended_s=ended_s,
        metrics=trained.metrics,
        best_epoch=trained.best_epoch,
        epochs_run=trained.epochs_run,
        scored_fingerprint=data.scored_fingerprint,
        facts={
            **trained.facts,
            **measure_times(trial.events()[0], ended_s),
            "input_size": list(trial.spec().train.input_size or data.data.images.shape[1:3]),
            "platform": sys.platform,
            **library_versions(),
        },
    )
    (trial.path / TrialFile.CHECKPOINT).unlink(missing_ok=True)  # not before: a kill in between would cost the whole training
    (trial.path / TrialFile.CHECKPOINT_INFO).unlink(missing_ok=True)
    return ExitCode.COMPLETE


def _end_failed(trial: TrialFolder, attempt: int, error: BaseException, slot: Slot) -> ExitCode:
    kind = classify(error)
    if kind is FailureKind.DEVICE_LOST and not slot.visible_devices:  # it had none: the trial's own code asked for one
        kind = FailureKind.EXCEPTION
    if kind is FailureKind.DISK_FULL:
        leave_without_space(trial, attempt, error)
        return ExitCode.DISK_FULL
    log_traceback(trial, error)
    fail(trial, attempt, failure=kind, reason=describe(error))
    return ExitCode.DEVICE_LOST if kind is FailureKind.DEVICE_LOST else ExitCode.FAILED


def measure_times(events: Iterable[Event], ended_s: float) -> dict[str, float]:
    """Facts for a result from a trial's progress.

    ``attempts_s``: all its attempts together; a killed one counts up to its last event, time between attempts not at all.
    ``epoch_s``: an epoch with its validation. ``val_s``: the validation.
    """
    by_attempt: dict[int, list[Event]] = {}
    for event in events:
        by_attempt.setdefault(event.attempt, []).append(event)
    if not by_attempt:
        return {}
    last = max(by_attempt)
    spans = [(ended_s if n == last else seen[-1].time_s) - seen[0].time_s for n, seen in by_attempt.items()]
    times = {"attempts_s": round(sum(max(0.0, span) for span in spans), 3)}
    epochs = [[event for event in seen if event.kind == "epoch"] for seen in by_attempt.values()]
    gaps = [after.time_s - before.time_s for seen in epochs for before, after in itertools.pairwise(seen)]
    own = [event for seen in epochs for event in seen if "epoch_s" in event.metrics]
    # from one epoch's end to the next; if every attempt has only one, what the epochs themselves report
    if epoch_s := gaps or [event.metrics["epoch_s"] + read_number(event.facts, "val_s") for event in own]:
        times["epoch_s"] = round(median(epoch_s), 4)
    if validations := [read_number(event.facts, "val_s") for seen in epochs for event in seen if "val_s" in event.facts]:
        times["val_s"] = round(median(validations), 4)
    return times
