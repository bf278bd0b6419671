"""Seconds to select up to four of 64 and of 256 candidates: ours, a plain numpy loop and AutoGluon.

    python benchmarks/ensemble.py [--sizes 64 256] [--peer-python PATH] [--repeat N]

Candidates are generated softmax maps of 261x5x64x128 with different quality and shared errors; a third of the pixels is ignored.
All methods read the same stored bytes, use the same metric, mIoU of the mean, and select greedily (k=4).

- ours: the search, all of its K rounds, with the store open and the kernel compiled; median of several runs. Also printed:
  opening the store (mapping and checking the files), the whole from a cold start (a new process that imports, unpacks, regroups,
  searches with `auto` and cross-fits, with an empty cache), and the whole with the cache filled.
- numpy: `(sums + candidate).argmax(axis=1)` and a bincount at the scored pixels, float32, arrays in memory.
- AutoGluon: its EnsembleSelection(ensemble_size=4) on the scored pixels, float32, with the same metric. It selects with
  replacement, which makes no difference if no member is taken twice. It needs its own environment:

      python -m venv /somewhere/else && /somewhere/else/bin/pip install autogluon.core
      python benchmarks/ensemble.py --peer-python /somewhere/else/bin/python

  Without --peer-python it is skipped.

First, a greedy search among 1,000 candidates in a new process measures the memory beyond mapped files.

The bandwidth is that of a plain read of 1 GiB by as many threads; our share of it counts the bytes of the candidates.

Results, 2026-11-22, AMD EPYC with AVX2, 2 cores that read 26 GB/s, little other load, the same members for all three:

                             64 candidates             256 candidates
  ours, all four rounds      0.146 s (12.7 GB/s)       0.590 s (12.6 GB/s)
  numpy                      20.8 s, 142 times         97.2 s, 165 times
  AutoGluon 1.6.3            27.2 s, 186 times         104.7 s, 177 times
  opening the store          0.29 s                    0.67 s
  whole from a cold start    6.2 s, 3.4 with cache     15.4 s, 5.2 with cache

An hour earlier, without the first round (each candidate alone, which opening computes anyway), as in our command: 0.082 and
0.296 s, numpy 277 and 295 times, AutoGluon 318 and 334. 1,000 candidates, read from disk: 72 s, 233 MB beyond files.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

NUM_IMAGES, NUM_CLASSES, HEIGHT, WIDTH, K = 261, 5, 64, 128, 4
IGNORED = (0,)
SHARES = (0.34, 0.27, 0.22, 0.16, 0.01)
"""Pixel shares of the classes, the ignored one first."""


def make_labels() -> np.ndarray:
    random = np.random.default_rng(0)
    return random.choice(NUM_CLASSES, (NUM_IMAGES, HEIGHT, WIDTH), p=SHARES).astype(np.uint8)


def make_candidate(number: int, labels: np.ndarray, common: np.ndarray) -> np.ndarray:
    """Return quantized softmax maps; ``number`` determines the signal and the share of independent noise."""
    random = np.random.default_rng(number + 1)
    signal, own = 1.5 + 1.5 * random.random(), 0.6 + 0.6 * random.random()
    logits = own * random.standard_normal((NUM_CLASSES, *labels.shape), np.float32) + common
    np.put_along_axis(logits, labels[None], np.take_along_axis(logits, labels[None], 0) + np.float32(signal), 0)
    raised = np.exp(logits - logits.max(axis=0))
    return np.rint(255 * raised / raised.sum(axis=0)).astype(np.uint8).swapaxes(0, 1)


def write_store(folder: Path, num_candidates: int) -> list[Path]:
    """Write a trial folder for each candidate."""
    from orchestrator.state.trial.outputs import write_predictions

    labels = make_labels()
    common = np.random.default_rng(1).standard_normal((NUM_CLASSES, *labels.shape), np.float32)

    def write(number: int) -> Path:
        target = folder / f"{number:03}"
        if not target.exists():
            target.mkdir()
            candidate = np.ascontiguousarray(make_candidate(number, labels, common))
            write_predictions(target, candidate, labels, ignore_classes=IGNORED, scored_fingerprint="benchmark")
        return target

    with ThreadPoolExecutor(os.cpu_count()) as threads:
        return list(threads.map(write, range(num_candidates)))


def read_candidates(folders: list[Path]) -> Iterator[np.ndarray]:
    import zstandard

    for folder in folders:
        raw = zstandard.ZstdDecompressor().decompress((folder / "predictions.zst").read_bytes())
        yield np.frombuffer(raw, np.uint8).reshape(NUM_IMAGES, NUM_CLASSES, HEIGHT, WIDTH)


def compute_miou(confusion: np.ndarray) -> float:
    hits, union = np.diag(confusion), confusion.sum(0) + confusion.sum(1) - np.diag(confusion)
    scored = [c for c in range(NUM_CLASSES) if c not in IGNORED and union[c] > 0]
    return float(np.mean(hits[scored] / union[scored]))


def time_numpy(folders: list[Path], _labels: Path) -> dict[str, Any]:
    """Time the loop that a user would write."""
    labels = make_labels()
    candidates = [candidate.astype(np.float32) for candidate in read_candidates(folders)]
    started = time.perf_counter()
    is_scored = ~np.isin(labels, IGNORED)
    truth = labels[is_scored].astype(np.int64) * NUM_CLASSES
    sums, members = np.zeros_like(candidates[0]), []
    while len(members) < K:
        scores = []
        for i, candidate in enumerate(candidates):
            if i in members:
                scores.append(-1.0)
                continue
            predicted = (sums + candidate).argmax(axis=1)[is_scored]
            confusion = np.bincount(truth + predicted, minlength=NUM_CLASSES**2).reshape(NUM_CLASSES, NUM_CLASSES)
            scores.append(compute_miou(confusion))
        members.append(int(np.argmax(scores)))
        sums += candidates[members[-1]]
    return {"took_s": time.perf_counter() - started, "members": members}


PEER = """
import json, sys, time
import numpy as np
from autogluon.core.metrics import make_scorer
from autogluon.core.models.greedy_ensemble.ensemble_selection import EnsembleSelection

labels, num, num_classes = np.load(sys.argv[1] + "/labels.npy").astype(np.int64), int(sys.argv[2]), int(sys.argv[3])
bytes_of = np.load(sys.argv[1] + "/candidates.npy", mmap_mode="r")
candidates = [np.maximum(bytes_of[i].astype(np.float32) / 255, 1e-9) for i in range(num)]

def miou(y_true, y_pred):
    confusion = np.bincount(y_true * num_classes + y_pred, minlength=num_classes**2).reshape(num_classes, num_classes)
    hits, union = np.diag(confusion), confusion.sum(0) + confusion.sum(1) - np.diag(confusion)
    scored = [c for c in range(1, num_classes) if union[c] > 0]
    return float(np.mean(hits[scored] / union[scored]))

metric = make_scorer("miou", miou, optimum=1, greater_is_better=True, needs_pred=True)
selection = EnsembleSelection(ensemble_size=int(sys.argv[4]), problem_type="multiclass", metric=metric)
started = time.perf_counter()
selection.fit(candidates, labels)
print(json.dumps({"took_s": time.perf_counter() - started, "members": [int(i) for i in selection.indices_]}))
"""


def time_autogluon(folders: list[Path], python: Path, scratch: Path) -> dict[str, Any]:
    """Time AutoGluon in its own environment; loading does not count."""
    labels = make_labels()
    is_scored = ~np.isin(labels, IGNORED)
    np.save(scratch / "labels.npy", labels[is_scored])
    shape = (len(folders), int(is_scored.sum()), NUM_CLASSES)
    flat = np.lib.format.open_memmap(scratch / "candidates.npy", "w+", np.uint8, shape)
    for i, candidate in enumerate(read_candidates(folders)):
        flat[i] = candidate.transpose(0, 2, 3, 1)[is_scored]
    flat.flush()
    command = [str(python), "-c", PEER, str(scratch), str(len(folders)), str(NUM_CLASSES), str(K)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def time_ours(folders: list[Path], cache: Path, repeat: int) -> dict[str, Any]:
    from orchestrator.ensemble.pooling import load_pool
    from orchestrator.ensemble.selection.counting import CandidateCounter
    from orchestrator.ensemble.selection.pool import SelectionRules

    names = [folder.name for folder in folders]
    load_pool(names[:2], folders[:2], cache, names=names[:2])  # compiles the kernel
    started = time.perf_counter()
    pool = load_pool(names, folders, cache, names=names)
    open_s = time.perf_counter() - started
    every = np.arange(pool.num_images)
    times = []
    alone = pool._counter
    assert isinstance(alone, CandidateCounter)
    for _ in range(repeat):
        pool._counter = CandidateCounter(pool.layout, alone._blocks, "arithmetic")  # without cached results
        started = time.perf_counter()
        found = pool.select(every, k=K, rules=SelectionRules("greedy"))
        times.append(time.perf_counter() - started)
    num_bytes = len(folders) * K * int(np.prod(pool.layout.shape))
    return {
        "took_s": float(np.median(times)),
        "best_s": min(times),
        "open_s": open_s,
        "members": [names.index(pool.keys[i]) for i in found.members],
        "gb_per_s": num_bytes / float(np.median(times)) / 1e9,
    }


@contextmanager
def watch_memory() -> Iterator[dict[str, float]]:
    """Measure this process's peak memory beyond mapped files, in MB, during the block."""
    found, ended = {"anonymous_mb": 0.0}, threading.Event()

    def watch() -> None:
        while not ended.wait(0.02):
            status = Path("/proc/self/status").read_text()
            found["anonymous_mb"] = max(found["anonymous_mb"], int(status.split("RssAnon:")[1].split()[0]) / 1024)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield found
    finally:
        ended.set()
        thread.join()


def time_whole(folders: list[Path], cache: Path) -> dict[str, Any]:
    """Time everything that the command does once it knows the folders, in this process."""
    from orchestrator.ensemble.evaluation.evaluate import evaluate
    from orchestrator.ensemble.pooling import load_pool

    names = [folder.name for folder in folders]
    with watch_memory() as memory:
        report = evaluate(load_pool(names, folders, cache, names=names), k=K)
    return {**memory, "search": f"{report.search} ({report.reason})"}


class Shifted(Sequence[np.ndarray]):
    """Any number of candidates from a few: shifted to the right by different widths."""

    def __init__(self, folders: list[Path], number: int) -> None:
        self._few, self._number = list(read_candidates(folders[:8])), number

    def __len__(self) -> int:
        return self._number

    def __getitem__(self, i: int) -> np.ndarray:  # type: ignore[override]
        return np.roll(self._few[i % len(self._few)], i // len(self._few), axis=3)


def time_many(folders: list[Path], number: int) -> dict[str, Any]:
    """Search among more candidates than fit into memory, from a sequence that generates each on access."""
    from orchestrator.ensemble.selection.pool import Pool, SelectionRules

    with watch_memory() as memory:
        pool = Pool([str(i) for i in range(number)], Shifted(folders, number), make_labels(), IGNORED)
        started = time.perf_counter()
        pool.select(np.arange(NUM_IMAGES), k=K, rules=SelectionRules("greedy"))
    return {**memory, "took_s": time.perf_counter() - started, "gb": number * int(np.prod(pool.layout.shape)) / 1e9}


def measure_bandwidth() -> float:
    """GB/s of a plain read by all threads."""
    array = np.ones(2**27, np.uint64)
    threads = os.cpu_count() or 1
    best = 0.0
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(5):
            started = time.perf_counter()
            list(pool.map(np.max, np.array_split(array, threads)))
            best = max(best, array.nbytes / (time.perf_counter() - started) / 1e9)
    return best


def in_child(work: Callable[..., dict[str, Any]], *arguments: Any) -> dict[str, Any]:
    """Run a function of this file in a new process; ``wall_s`` is the total time."""
    code = (
        f"import sys, json; sys.path[:0] = {sys.path!r}; from pathlib import Path, PosixPath; import ensemble; "
        f"print(json.dumps(ensemble.{work.__name__}(*{arguments!r})))"
    )
    started = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found | {"wall_s": time.perf_counter() - started}


def compare(folders: list[Path], scratch: Path, options: argparse.Namespace, bandwidth: float) -> None:
    print(f"\n{len(folders)} candidates of {NUM_IMAGES}x{NUM_CLASSES}x{HEIGHT}x{WIDTH}, k={K}", flush=True)
    cache = scratch / f"cache{len(folders)}"
    cold = in_child(time_whole, folders, cache)
    warm = in_child(time_whole, folders, cache)
    ours = in_child(time_ours, folders, cache, options.repeat)
    print(f"  ours, search alone    {ours['took_s']:8.3f} s  (best {ours['best_s']:.3f}) members {ours['members']}")
    print(f"    reads {ours['gb_per_s']:.1f} GB/s, {ours['gb_per_s'] / bandwidth:.0%} of the bandwidth")
    print(f"    opening the store   {ours['open_s']:8.2f} s")
    print(f"    whole, cold start   {cold['wall_s']:8.2f} s  with the cache {warm['wall_s']:.2f} s; {cold['search']}")
    print(f"    memory beyond files {cold['anonymous_mb']:8.0f} MB", flush=True)
    peers: dict[str, dict[str, Any]] = {}
    if "numpy" in options.peers:
        peers["numpy"] = in_child(time_numpy, folders, scratch)
    if "autogluon" in options.peers and options.peer_python:
        peers["AutoGluon"] = time_autogluon(folders, options.peer_python, scratch)
    for name, peer in peers.items():
        same = "yes" if peer["members"] == ours["members"] else f"no, {peer['members']}"
        print(
            f"  {name:21} {peer['took_s']:8.2f} s  {peer['took_s'] / ours['took_s']:6.0f} times ours; same members: {same}",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 256])
    parser.add_argument("--peer-python", type=Path, help="Python of an environment with autogluon.core")
    parser.add_argument("--peers", nargs="*", default=["numpy", "autogluon"], choices=["numpy", "autogluon"])
    parser.add_argument("--many", type=int, default=1000, help="candidates to measure memory with; 0 for none")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="keep the candidates there instead of in a temporary folder")
    options = parser.parse_args()
    if not options.peer_python and "autogluon" in options.peers:
        print("AutoGluon is skipped: no --peer-python (see --help)")
    bandwidth = measure_bandwidth()
    print(f"{os.cpu_count()} threads read {bandwidth:.1f} GB/s")
    with tempfile.TemporaryDirectory() as temporary:
        store = options.folder or Path(temporary)
        store.mkdir(exist_ok=True)
        folders = write_store(store, max(options.sizes))
        if options.many:
            many = in_child(time_many, folders, options.many)
            print(f"{options.many} candidates, {many['gb']:.1f} GB: search {many['took_s']:.1f} s, ", end="")
            print(f"memory beyond files {many['anonymous_mb']:.0f} MB", flush=True)
        for size in options.sizes:
            with tempfile.TemporaryDirectory() as scratch:
                compare(folders[:size], Path(scratch), options, bandwidth)


if __name__ == "__main__":
    main()
