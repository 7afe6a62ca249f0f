"""Stored floats to float32 and back, block by block, on numpy arrays that the caller owns.

A merge needs nothing else of a tensor library, and importing one takes longer than merging a gigabyte.  numpy has no
bfloat16, but a bfloat16 is the upper half of a float32, so widening is a shift and narrowing an addition and a shift:
half of the last kept bit is added, less one where the kept part is even, which is rounding to nearest, ties to even,
as torch rounds (tested bit for bit).

    buffer = Buffer(1 << 17)
    widen(buffer.view("BF16", count), "BF16", values)
"""

import numpy as np

WIDTH = {  # bytes per element of a safetensors dtype
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U64": 8, "U32": 4, "U16": 2,
    "U8": 1, "BOOL": 1, "F8_E4M3": 1, "F8_E5M2": 1,
}  # fmt: skip
FLOATS = {"F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": np.uint16}  # dtypes with arithmetic here


class Buffer:
    """A fixed buffer for raw bytes with typed views; one per worker, reused for every block.

    Large fresh allocations are what makes merging slow, so a worker allocates once.
    """

    def __init__(self, elements: int):
        self.raw = np.empty(elements * 8, np.uint8)
        self.bytes = memoryview(self.raw)
        self.scratch = np.empty(elements, np.uint32)

    def view(self, dtype: str, count: int) -> np.ndarray:
        """The first ``count`` elements [count] as the safetensors dtype (bfloat16 as its bits, uint16)."""
        return self.raw[: count * WIDTH[dtype]].view(FLOATS[dtype])


def widen(stored: np.ndarray, dtype: str, out: np.ndarray) -> None:
    """Stored elements [n] of the safetensors ``dtype`` into ``out`` [n] float32."""
    if dtype == "BF16":
        bits = out.view(np.uint32)
        np.copyto(bits, stored)
        np.left_shift(bits, 16, out=bits)
    else:
        np.copyto(out, stored, casting="same_kind")


def narrow(values: np.ndarray, dtype: str, out: np.ndarray, scratch: np.ndarray) -> None:
    """``values`` [n] float32, none of them NaN, rounded once into ``out`` [n] of the safetensors ``dtype``.

    ``scratch`` [at least n] uint32 is overwritten.
    """
    if dtype == "BF16":
        bits, sum_ = values.view(np.uint32), scratch[: len(values)]
        np.right_shift(bits, 16, out=sum_)
        np.bitwise_and(sum_, 1, out=sum_)
        np.add(sum_, 0x7FFF, out=sum_)
        np.add(sum_, bits, out=sum_)
        np.right_shift(sum_, 16, out=sum_)
        np.copyto(out, sum_, casting="same_kind")
    else:
        np.copyto(out, values, casting="same_kind")
