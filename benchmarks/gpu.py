"""Everything that can only be shown on a GPU, in one command and at most eight minutes.

    python benchmarks/gpu.py --out FOLDER [--source FILE.npz] [--parts tests,single] [--budget-s 480]

Parts, in this order, each a process with its own time limit; an error or a time-out in one leaves the others alone:

tests    the tests marked `gpu`
single   one trial of Unet with mobilenet_v2 and resnet34: images/s of ours and of the plain loop (plain_script.py, on the GPU),
         and their share of what the device allows (roofline.py)
packing  1, 2, 4, 8 and 16 trials at once on one GPU: images/s of all together, and what `trials_per_gpu: auto` chooses
table1   all 37 rows of sweeps/table1.yaml with few epochs (--epochs): wall time, and the state of each row
crops    as `single`, with 512x512 images and batches of 16

FOLDER gets gpu.json, gpu.md and the output of each part. Both files are rewritten after each part. Time that a part leaves goes
to the later ones. Without --source, tiles are generated that look like the homework's. Nothing needs a network. Where the
project is not installed, let `PYTHONPATH` name its folder and that of its dependencies. `--tiny` is a dry run on
the CPU, with sizes that show nothing about speed. Exit code 1: a part failed or ran out of time.

Results:
none yet: no GPU was available.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
from gpu_report import write_table
from gpu_settings import Settings

from orchestrator.launchers.slots.gpus import find_gpus
from orchestrator.state.machine import count_cores, library_versions

ROOT = Path(__file__).resolve().parents[1]
LIMITS_S = {"tests": 120.0, "single": 95.0, "packing": 95.0, "table1": 120.0, "crops": 50.0}
"""Of the parts, in their order; scaled to the budget."""

BUDGET_S = sum(LIMITS_S.values())
END_CHARS = 3000
"""Of the output of a part that failed, kept in gpu.json."""

TINY = {
    "device": "cpu",
    "measure_s": 0.2,
    "packed": (1, 2),
    "pack_s": 0.5,
    "epochs": 1,
    "batch_size": 8,
    "sweep_options": ("data.limit=8", "base.batch_size=4", "data.clean=null", "keep.checkpoints=none"),
    "crop": 64,
    "crop_batch": 4,
    "num_crops": 16,
}


def main() -> int:
    args = read_arguments()
    if not args.tiny and not find_gpus():
        print("No GPU here. --tiny is a dry run on the CPU.", file=sys.stderr)
        return 2
    out = args.out.absolute()
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="gpu-", ignore_cleanup_errors=True) as scratch:
        settings = Settings(source=args.source or make_tiles(Path(scratch), is_tiny=args.tiny), device="cuda", scratch=scratch)
        settings = replace(settings, **TINY) if args.tiny else settings
        if args.epochs is not None:
            settings = replace(settings, epochs=args.epochs)
        settings = replace(settings, sweep_options=(*settings.sweep_options, *args.set))
        document = {"host": describe_host(), "settings": asdict(settings), "parts": {}}
        faults = dict(fault.split("=") for fault in args.fault)
        deadline_s = time.monotonic() + args.budget_s
        for index, name in enumerate(args.parts):
            limit_s = share_time(args.parts[index:], deadline_s - time.monotonic())
            print(f"--- {name}, at most {limit_s:.0f} s", flush=True)
            document["parts"][name] = run_part(name, replace(settings, fault=faults.get(name)), out, limit_s=limit_s)
            (out / "gpu.json").write_text(json.dumps(document, indent=1), encoding="utf-8")
            (out / "gpu.md").write_text(write_table(document), encoding="utf-8")
    print((out / "gpu.md").read_text(encoding="utf-8"))
    return int(any(part["state"] != "ok" for part in document["parts"].values()))


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--source", help=".npz of the homework's layout; default: generated tiles")
    parser.add_argument("--parts", type=lambda text: text.split(","), default=list(LIMITS_S), help="default: all")
    parser.add_argument("--budget-s", type=float, default=BUDGET_S, help="of all parts together; default: %(default)s")
    parser.add_argument("--epochs", type=int, help="of each row of table1; default: 2")
    parser.add_argument("--set", action="append", default=[], metavar="a.b=c", help="as of `orchestrate sweep`, for table1")
    parser.add_argument("--tiny", action="store_true", help="dry run on the CPU")
    parser.add_argument("--fault", action="append", default=[], metavar="PART=raise|hang", help="to test this script")
    args = parser.parse_args()
    if unknown := set(args.parts) - set(LIMITS_S):
        parser.error(f"--parts: unknown {', '.join(sorted(unknown))}. Known: {', '.join(LIMITS_S)}.")
    if args.source is not None:
        args.source = str(Path(args.source).resolve())
        if not Path(args.source).is_file():
            parser.error(f"--source: there is no file {args.source}.")
    return args


def share_time(parts: Sequence[str], left_s: float) -> float:
    """Seconds for the first of the parts that are still to run."""
    return max(1.0, left_s) * LIMITS_S[parts[0]] / sum(LIMITS_S[name] for name in parts)


def run_part(name: str, settings: Settings, out: Path, *, limit_s: float) -> dict[str, Any]:
    """Run a part in a session of its own, which is killed when its time is up, and whatever it leaves afterwards."""
    folder = Path(settings.scratch) / name
    folder.mkdir()
    settings_file, result_file, log = folder / "settings.json", folder / "result.json", out / f"{name}.log"
    started_s = time.monotonic()
    settings = replace(settings, scratch=str(folder), started_s=time.time(), limit_s=limit_s)
    settings_file.write_text(json.dumps(asdict(settings)), encoding="utf-8")
    command = [sys.executable, str(Path(__file__).with_name("gpu_parts.py")), name, str(settings_file), str(result_file)]
    with open(log, "wb") as output:
        process = subprocess.Popen(
            command, cwd=folder, env=make_environment(folder, settings), stdin=subprocess.DEVNULL, stdout=output,
            stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        try:
            code = process.wait(limit_s)
            state = "ok" if code == 0 else "error"
        except subprocess.TimeoutExpired:
            state = "time-out"
        finally:
            kill_all(process)
    part = {"state": state, "wall_s": time.monotonic() - started_s, "limit_s": limit_s, "exit_code": process.returncode}
    part["results"] = json.loads(result_file.read_text(encoding="utf-8")) if result_file.exists() else {}
    if state != "ok":
        part["output_end"] = log.read_text(encoding="utf-8", errors="replace")[-END_CHARS:]
    return part


def make_environment(folder: Path, settings: Settings) -> dict[str, str]:
    """The first GPU or none, a home and slots of its own; no server, no download."""
    hidden = ("MLFLOW_TRACKING_URI", "ORCHESTRATE_STORAGE", "ORCHESTRATE_NOTIFY")
    ours = {
        "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]),
        "PYTHONUNBUFFERED": "1",
        "ORCHESTRATE_HOME": str(folder / "home"),
        "ORCHESTRATE_SLOTS": str(folder / "slots"),
        "HF_HUB_OFFLINE": "1",
    }
    gpus = find_gpus() if settings.device == "cuda" else ()
    ours["CUDA_VISIBLE_DEVICES"] = gpus[0].uuid if gpus else ""
    return {name: value for name, value in os.environ.items() if name not in hidden} | ours


def kill_all(process: subprocess.Popen[bytes]) -> None:
    """Kill a process, its descendants and its session, and wait for it; GPU memory is free then."""
    found = []
    with suppress(psutil.NoSuchProcess):
        found = psutil.Process(process.pid).children(recursive=True)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    for one in found:
        with suppress(psutil.NoSuchProcess):
            one.kill()
    process.wait()
    psutil.wait_procs(found, timeout=5)


def make_tiles(folder: Path, *, is_tiny: bool) -> str:
    """Write generated tiles into a .npz of the homework's layout."""
    import numpy as np

    from trainers.config import DataConfig, SyntheticConfig
    from trainers.data import load_dataset

    size = {"num_images": 32, "height": 32, "width": 64} if is_tiny else {"num_images": 2506}
    data = load_dataset(DataConfig(synthetic=SyntheticConfig.model_validate(size)))
    file = folder / "tiles.npz"
    np.savez(file, training_set=np.stack([data.images[..., 0], data.masks], axis=1))
    return str(file)


def describe_host() -> dict[str, Any]:
    """GPUs, cores, versions and commit."""
    gpus = [f"{gpu.name}, {gpu.memory_mb} MiB" for gpu in find_gpus()]
    git = ["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"]
    commit = ""
    with suppress(OSError):
        commit = subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip()
    facts: Mapping[str, Any] = {"machine": platform.machine(), "cores": count_cores(), "gpus": gpus, "commit": commit or None}
    return {"time": datetime.now(UTC).isoformat(timespec="seconds"), **facts, "versions": library_versions()}


if __name__ == "__main__":
    sys.exit(main())
