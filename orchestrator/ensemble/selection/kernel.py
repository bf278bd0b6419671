"""Blocks of stored probabilities -> how often each class wins. Integer arithmetic only: exact in any order, on any threads.

A block is 64 pixels of one image and one true class, ``[class][64]`` uint8; a run is some blocks of one image and class. Counting
the winners of all runs gives the confusion matrix. The code is compiled for each number of classes, once per machine.

Arithmetic means need only bytes. For each pixel, the *deficit* of a class is how far its sum over the members lies behind the
largest sum, cut off at 255. The class wins whose byte of the candidate minus the deficit, not below 0, is the largest. If there
is one such class, this is exact despite the cut-off; if there are several, the sums decide.
"""

from typing import Any

import numpy as np
from llvmlite import ir
from numba import carray, njit, types  # type: ignore[attr-defined]  # carray is not in its list of exports
from numba.core import cgutils
from numba.extending import intrinsic
from numpy.typing import NDArray

LANES = 64
"""Pixels of a block: one bit each in the word that marks ties."""

MAX_RUN = 127
"""Blocks of a run: a byte counts two lanes of each block."""

UNSCORED = 255
"""The label of pixels that are not scored: void, or of an ignored class."""

MAX_MEMBERS = 257
"""Times 65,535, this is far below the largest int32."""

_WIDTH = LANES // 2  # of a vector: 64 lanes would need more than 16 registers of 32 bytes
_BYTE, _INT, _WORD = ir.IntType(8), ir.IntType(32), ir.IntType(64)
_BYTES, _INTS = ir.VectorType(_BYTE, _WIDTH), ir.VectorType(_INT, _WIDTH)


def _make_pointer(_typing: Any, address: Any) -> Any:
    """An address as a pointer to bytes, of which ``carray`` makes an array."""

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], _BYTE.as_pointer())

    return types.CPointer(types.uint8)(address), generate


def _make_lowest_bit(_typing: Any, word: Any) -> Any:
    """Number of the lowest bit that is set; one must be."""

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.cttz(arguments[0], ir.Constant(ir.IntType(1), 1))

    return types.uint64(types.uint64), generate


def _make_count(_typing: Any, candidate: Any, deficits: Any, num_blocks: Any, classes: Any, counts: Any, ties: Any) -> Any:
    """For a run: the number of lanes in which each class is (among) the largest, and the lanes of each block with ties.

    candidate, deficits: addresses of (num_blocks, C, 64) uint8; counts: of (C,) int32; ties: of (num_blocks,) uint64, one bit per
    lane. classes: a tuple of length C. Written as LLVM IR, because compilers rarely vectorize such a loop.
    """
    num_classes = len(classes)

    def generate(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        candidate_at, deficits_at, blocks, _, counts_at, ties_at = arguments

        def declare(name: str, result: Any, *given: Any) -> Any:
            return cgutils.get_or_insert_function(builder.module, ir.FunctionType(result, given), name)

        subtract = declare(f"llvm.usub.sat.v{_WIDTH}i8", _BYTES, _BYTES, _BYTES)
        larger = declare(f"llvm.umax.v{_WIDTH}i8", _BYTES, _BYTES, _BYTES)
        add_up = declare(f"llvm.vector.reduce.add.v{_WIDTH}i32", _INT, _INTS)
        none, all_ones = ir.Constant(_BYTES, [0] * _WIDTH), ir.Constant(_BYTES, [255] * _WIDTH)

        def at(address: Any, offset: Any, kind: Any) -> Any:
            return builder.inttoptr(builder.add(address, offset), kind.as_pointer())

        def load(address: Any, offset: Any) -> Any:
            value = builder.load(at(address, offset, _BYTES))
            value.align = 1
            return value

        counters = [cgutils.alloca_once_value(builder, none) for _ in range(num_classes)]
        with cgutils.for_range(builder, builder.mul(blocks, ir.Constant(_WORD, 2))) as loop:
            block, half = builder.lshr(loop.index, ir.Constant(_WORD, 1)), builder.and_(loop.index, ir.Constant(_WORD, 1))
            start = builder.mul(block, ir.Constant(_WORD, LANES * num_classes))
            start = builder.add(start, builder.mul(half, ir.Constant(_WORD, _WIDTH)))
            offsets = [builder.add(start, ir.Constant(_WORD, LANES * c)) for c in range(num_classes)]
            left = [builder.call(subtract, [load(candidate_at, offset), load(deficits_at, offset)]) for offset in offsets]
            largest = left[0]
            for value in left[1:]:
                largest = builder.call(larger, [largest, value])
            num_largest = none  # as a negative number, since a comparison that holds is -1
            for counter, value in zip(counters, left, strict=True):
                is_largest = builder.sext(builder.icmp_unsigned("==", value, largest), _BYTES)
                builder.store(builder.sub(builder.load(counter), is_largest), counter)
                num_largest = builder.add(num_largest, is_largest)
            several = builder.bitcast(builder.icmp_unsigned("!=", num_largest, all_ones), _INT)
            builder.store(several, at(ties_at, builder.mul(loop.index, ir.Constant(_WORD, _WIDTH // 8)), _INT))
        for c, counter in enumerate(counters):
            total = builder.call(add_up, [builder.zext(builder.load(counter), _INTS)])
            builder.store(total, at(counts_at, ir.Constant(_WORD, 4 * c), _INT))
        return context.get_dummy_value()

    word = types.int64
    return types.void(word, word, word, classes, word, word), generate


_pointer: Any = intrinsic(_make_pointer)
_find_lowest_bit: Any = intrinsic(_make_lowest_bit)
_count_largest: Any = intrinsic(_make_count)


@njit(nogil=True, cache=True)
def regroup(
    predictions: NDArray[np.uint8],
    pixels: NDArray[np.int32],
    image_of_run: NDArray[np.int32],
    run_start: NDArray[np.int64],
    blocks: NDArray[np.uint8],
) -> None:
    """Regroup (V, C, P) into blocks (B, C, 64). pixels: (B, 64) of the run's image, -1 for padding, which class 0 wins."""
    for run in range(len(image_of_run)):
        image = predictions[image_of_run[run]]
        for block in range(run_start[run], run_start[run + 1]):
            for c in range(predictions.shape[1]):
                for lane in range(LANES):
                    pixel = pixels[block, lane]
                    if pixel >= 0:
                        blocks[block, c, lane] = image[c, pixel]
                    else:
                        blocks[block, c, lane] = 255 if c == 0 else 0


@njit(nogil=True, cache=True)
def ungroup(blocks: Any, pixels: Any, image_of_run: Any, run_start: Any, predictions: Any) -> None:
    """The inverse of ``regroup``; pixels in no block stay as they are."""
    for run in range(len(image_of_run)):
        image = predictions[image_of_run[run]]
        for block in range(run_start[run], run_start[run + 1]):
            for c in range(predictions.shape[1]):
                for lane in range(LANES):
                    pixel = pixels[block, lane]
                    if pixel >= 0:
                        image[c, pixel] = blocks[block, c, lane]


@njit(nogil=True, cache=True)
def _sum_bytes(members: NDArray[np.int64], weights: NDArray[np.int32], sums: NDArray[np.int32]) -> None:
    """Add the members' blocks, which start at these addresses, times their weights."""
    num_blocks, num_classes, _ = sums.shape
    for i in range(len(members)):
        blocks, weight = carray(_pointer(members[i]), (num_blocks, num_classes, LANES)), weights[i]
        for block in range(num_blocks):
            for c in range(num_classes):
                for lane in range(LANES):
                    sums[block, c, lane] += weight * np.int32(blocks[block, c, lane])


@njit(nogil=True, cache=True)
def _sum_by_table(
    members: NDArray[np.int64], weights: NDArray[np.int32], table: NDArray[np.int32], is_vote: bool, sums: NDArray[np.int32]
) -> None:
    """As ``_sum_bytes``, but of ``table``'s value for each byte; or of votes."""
    num_blocks, num_classes, _ = sums.shape
    for i in range(len(members)):
        blocks, weight = carray(_pointer(members[i]), (num_blocks, num_classes, LANES)), weights[i]
        for block in range(num_blocks):
            for lane in range(LANES):
                if is_vote:
                    sums[block, _find_largest(blocks[block], lane), lane] += weight
                else:
                    for c in range(num_classes):
                        sums[block, c, lane] += weight * table[blocks[block, c, lane]]


@njit(nogil=True, cache=True)
def _find_largest(block: Any, lane: int) -> int:
    """The class of the largest of a pixel's values, the lowest of equals."""
    best = 0
    for c in range(1, len(block)):
        if block[c, lane] > block[best, lane]:
            best = c
    return best


@njit(nogil=True, cache=True)
def _find_deficits(sums: NDArray[np.int32]) -> NDArray[np.uint8]:
    """How far each class lies behind the largest, at most 255."""
    num_blocks, num_classes, _ = sums.shape
    deficits = np.empty(sums.shape, np.uint8)
    highest = np.empty(LANES, np.int32)
    for block in range(num_blocks):
        highest[:] = sums[block, 0]
        for c in range(1, num_classes):
            for lane in range(LANES):
                highest[lane] = max(highest[lane], sums[block, c, lane])
        for c in range(num_classes):
            for lane in range(LANES):
                deficits[block, c, lane] = min(highest[lane] - sums[block, c, lane], 255)
    return deficits


@njit(nogil=True, cache=True)
def _settle_ties(block: Any, deficits: NDArray[np.uint8], sums: NDArray[np.int32], ties: Any, counts: NDArray[np.int32]) -> None:
    """In lanes where several classes were counted as the largest, count only the winner, the lowest of equals."""
    num_classes = len(block)
    while ties:
        lane: Any = _find_lowest_bit(ties)
        ties &= ties - np.uint64(1)
        winner, largest = 0, np.int32(0)
        for c in range(num_classes):
            largest = max(largest, np.int32(block[c, lane]) - np.int32(deficits[c, lane]))
            if sums[c, lane] + block[c, lane] > sums[winner, lane] + block[winner, lane]:
                winner = c
        for c in range(num_classes):
            if max(np.int32(block[c, lane]) - np.int32(deficits[c, lane]), np.int32(0)) == largest:
                counts[c] -= 1
        counts[winner] += 1


@njit(nogil=True, cache=True)
def count_arithmetic(
    candidates: NDArray[np.int64],
    members: NDArray[np.int64],
    weights: NDArray[np.int32],
    classes: tuple[int, ...],
    run_start: NDArray[np.int64],
    runs: tuple[int, int],
    counts: NDArray[np.uint16],
) -> None:
    """For each candidate and run, count the pixels that each class wins once the candidate is added to the weighted members.

    candidates, members: addresses of blocks (B, C, 64); run_start: (R + 1,) in blocks; runs: range to count (start, stop), small
    enough for the members' deficits to stay in a core's cache; counts: (n, R, C), filled here; classes: a tuple of length C.
    """
    num_classes, size = len(classes), LANES * len(classes)
    first = run_start[runs[0]]
    sums = np.zeros((run_start[runs[1]] - first, num_classes, LANES), np.int32)
    _sum_bytes(members + first * size, weights, sums)
    deficits = _find_deficits(sums)
    row, ties = np.zeros(num_classes, np.int32), np.zeros(MAX_RUN, np.uint64)
    for i in range(len(candidates)):
        for run in range(runs[0], runs[1]):
            start, num_blocks = run_start[run], run_start[run + 1] - run_start[run]
            address = candidates[i] + start * size
            _count_largest(
                address, deficits.ctypes.data + (start - first) * size, num_blocks, classes, row.ctypes.data, ties.ctypes.data
            )
            blocks = carray(_pointer(address), (num_blocks, num_classes, LANES))
            for block in range(num_blocks):
                if ties[block]:
                    at = start - first + block
                    _settle_ties(blocks[block], deficits[at], sums[at], ties[block], row)
            for c in range(num_classes):
                counts[i, run, c] = row[c]


@njit(nogil=True, cache=True)
def count_by_table(
    candidates: NDArray[np.int64],
    members: NDArray[np.int64],
    weights: NDArray[np.int32],
    table: NDArray[np.int32],
    is_vote: bool,
    classes: tuple[int, ...],
    run_start: NDArray[np.int64],
    runs: tuple[int, int],
    counts: NDArray[np.uint16],
) -> None:
    """As ``count_arithmetic`` for other means: ``table`` maps each byte to its addend; or each pixel votes for its class."""
    num_classes, size = len(classes), LANES * len(classes)
    first = run_start[runs[0]]
    sums = np.zeros((run_start[runs[1]] - first, num_classes, LANES), np.int32)
    _sum_by_table(members + first * size, weights, table, is_vote, sums)
    highest, winner = np.empty(LANES, np.int32), np.empty(LANES, np.uint8)
    row = np.zeros(num_classes, np.int32)
    for i in range(len(candidates)):
        for run in range(runs[0], runs[1]):
            start, num_blocks = run_start[run], run_start[run + 1] - run_start[run]
            blocks = carray(_pointer(candidates[i] + start * size), (num_blocks, num_classes, LANES))
            row[:] = 0
            for block in range(num_blocks):
                total = sums[start - first + block]
                highest[:] = -1
                for lane in range(LANES):
                    voted = _find_largest(blocks[block], lane) if is_vote else -1
                    for c in range(num_classes):
                        value = total[c, lane] + (int(c == voted) if is_vote else table[blocks[block, c, lane]])
                        if value > highest[lane]:
                            highest[lane], winner[lane] = value, c
                    row[winner[lane]] += 1
            for c in range(num_classes):
                counts[i, run, c] = row[c]


@njit(nogil=True, cache=True)
def add_up_runs(
    counts: NDArray[np.uint16], class_of_run: NDArray[np.int32], runs: NDArray[np.int64], confusions: NDArray[np.int64]
) -> None:
    """Add the counts (n, R, C) of some runs to confusion matrices (n, C, C), rows true, columns predicted."""
    for i in range(len(counts)):
        for run in runs:
            for c in range(counts.shape[2]):
                confusions[i, class_of_run[run], c] += counts[i, run, c]
