"""A pseudo-random order of any number of items that needs no memory: item i of the order is computed when it is asked for."""

import hashlib

import numpy as np
import numpy.typing as npt

ROUNDS = 6
"""Rounds of the Feistel network; four make it a strong pseudo-random permutation where the round function is one.

Source: Luby and Rackoff, How to Construct Pseudorandom Permutations from Pseudorandom Functions, SIAM J. Comput. 1988.
"""

U64 = npt.NDArray[np.uint64]


class Permutation:
    """A bijection of 0 to n - 1 that ``seed`` and ``epoch`` determine, the same on every machine and in every version.

    A Feistel network permutes the next power of 4; what falls outside is permuted again until it lies inside (cycle walking).
    """

    def __init__(self, n: int, *, seed: int, epoch: int) -> None:
        assert n >= 1
        self.n = n
        self._half = np.uint64((max(n - 1, 1).bit_length() + 1) // 2)
        self._mask = np.uint64(2 ** int(self._half) - 1)
        digest = hashlib.blake2b(f"edgeprof order 1 {seed} {epoch}".encode(), digest_size=8 * ROUNDS).digest()
        self._keys = np.frombuffer(digest, dtype="<u8").astype(np.uint64)

    def __call__(self, positions: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """The items at these positions of the order."""
        values = self._rounds(positions.astype(np.uint64))
        while (outside := values >= self.n).any():
            values[outside] = self._rounds(values[outside])
        return values.astype(np.int64)

    def _rounds(self, values: U64) -> U64:
        left, right = values >> self._half, values & self._mask
        for key in self._keys:
            left, right = right, left ^ (_mix(right ^ key) & self._mask)
        return (left << self._half) | right


def _mix(x: U64) -> U64:
    """Spreads every bit over all 64. Source: the finaliser of splitmix64, https://prng.di.unimi.it/splitmix64.c."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
