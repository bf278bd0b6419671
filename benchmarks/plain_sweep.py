"""Images per second of `orchestrate sweep`, from start to end, compared with the plain script that a user would write.

Both do the same work: four losses, Unet/mobilenet_v2, 1024 training images, 2 epochs, validation after each epoch, best
checkpoint, everything logged to MLflow on SQLite. Each runs as a new process in an empty folder, so start-up counts.
They alternate, ``--repeat`` times.

    python benchmarks/plain_sweep.py [--source FILE.npz] [--repeat N]

The plain script is `plain_script.py`: one process, float32, Optuna's GridSampler, a DataLoader with two workers.

Results:
2026-11-22, AMD EPYC with AVX2 and without bf16, 2 cores, mars_train.npz, one run: ours 242.1 s (33.8 images/s), plain 422.0 s
(19.4 images/s), ratio 1.74. Later that day, with the second version of upsample.py: ours 223.5 s, plain about 410 s (stopped in
its fourth training, after 103, 97 and 100 s for the others), ratio 1.84. In the evening, with depthwise.py and a faster machine:
ours 179.0 s (45.8 images/s), plain 323.5 s (25.3 images/s), ratio 1.81. All without compiled bytecode, which slows down ours
more, as it starts more processes.
2026-11-23, the same machine, one run each, in a new clone: before the third version of upsample.py 197.1 s and 413.0 s, ratio
2.10, and with other load 206.8 and 373.3 s, ratio 1.80; with it 158.4 s (51.7 images/s) and 327.4 s (25.0 images/s), ratio 2.07.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
NUM_TRIALS, NUM_IMAGES, NUM_EPOCHS = 4, 1024, 2

SWEEP = """
name: plain
data: {{source: {source}, ignore_classes: [0], limit: {images}}}
base: {{arch: Unet, encoder: mobilenet_v2, epochs: {epochs}, batch_size: 32}}
search:
  method: grid
  space:
    loss: [{{name: focal, gamma: 2}}, {{name: weighted_cross_entropy}}, {{name: dice}}, {{name: jaccard}}]
"""


def run_ours(source: str, folder: Path) -> float:
    """Return the seconds of `orchestrate sweep` with an empty home."""
    file = folder / "plain.yaml"
    file.write_text(SWEEP.format(source=source, images=NUM_IMAGES, epochs=NUM_EPOCHS))
    command = [str(Path(sys.executable).with_name("orchestrate")), "sweep", str(file), "--json"]
    started = time.perf_counter()
    done = subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, check=True)
    wall_s = time.perf_counter() - started
    trials = json.loads(done.stdout)["trials"]
    assert [trial["state"] for trial in trials] == ["COMPLETE"] * NUM_TRIALS, trials
    print("  ours  val/miou:", " ".join(f"{trial['metrics']['val/miou']:.3f}" for trial in trials))
    return wall_s


def run_plain(source: str, folder: Path) -> float:
    """Return the seconds of the plain script."""
    command = [sys.executable, str(HERE / "plain_script.py"), source, str(NUM_IMAGES), str(NUM_EPOCHS)]
    started = time.perf_counter()
    done = subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, text=True, check=True)
    wall_s = time.perf_counter() - started
    print("  plain val/miou:", " ".join(f"{value:.3f}" for value in json.loads(done.stdout.splitlines()[-1])))
    return wall_s


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", default=str(HERE.parents[1] / "shared" / "data" / "mars_train.npz"))
    parser.add_argument("--repeat", type=int, default=1)
    args = parser.parse_args()
    images = NUM_TRIALS * NUM_IMAGES * NUM_EPOCHS
    walls: dict[str, list[float]] = {"ours": [], "plain": []}
    for number in range(args.repeat):
        for name, run in (("ours", run_ours), ("plain", run_plain)):
            with tempfile.TemporaryDirectory() as folder:
                walls[name].append(run(str(Path(args.source).resolve()), Path(folder)))
            print(f"run {number + 1}: {name:5} {walls[name][-1]:6.1f} s  {images / walls[name][-1]:6.1f} images/s", flush=True)
    ours, plain = (statistics.median(walls[name]) for name in ("ours", "plain"))
    print(f"{os.cpu_count()} cores; median of {args.repeat}: ours {images / ours:.1f} images/s, ", end="")
    print(f"plain {images / plain:.1f} images/s, ratio {plain / ours:.2f}")


if __name__ == "__main__":
    main()
