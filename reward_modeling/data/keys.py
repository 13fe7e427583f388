"""Numbers that stand for texts and prompts, and random choices by them: the same on every machine, in any order.

A random choice is a hash of a seed and of what is chosen from: it depends neither on the order of the rows nor on the
number of workers.
"""

from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray


def text_key(*texts: str) -> int:
    """A signed 64-bit number that stands for texts, in this order."""
    return _signed(blake2b("\0".join(texts).encode(errors="surrogatepass"), digest_size=8).digest())


def prompt_key(prompt: bytes) -> int:
    """The `prompt_key` of preference rows: the first 8 bytes of blake2b of what stands for the prompt."""
    return _signed(blake2b(prompt).digest()[:8])


def _signed(digest: bytes) -> int:
    return int.from_bytes(digest, "little", signed=True)


def mix_keys(keys: NDArray[np.int64], seed: int) -> NDArray[np.uint64]:
    """A pseudo-random number for each key, `(keys,)`: splitmix64 over key and seed."""
    with np.errstate(over="ignore"):  # arithmetic modulo 2**64 is meant
        seeds = np.array([seed % 2**64], dtype=np.uint64)
        return _splitmix64(keys.view(np.uint64) ^ _splitmix64(seeds))


def _splitmix64(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Steele, Lea and Flood (2014), "Fast splittable pseudorandom number generators"."""
    values = values + np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def draw_prompts(prompt_keys: NDArray[np.int64], most: int, seed: int) -> NDArray[np.bool_]:
    """At most `most` rows, whole prompts only, `(rows,)`: the first in an order that seed and keys alone give."""
    prompts, counts = np.unique(prompt_keys, return_counts=True)
    # A prompt with more rows than may be drawn would end the order at once.
    prompts, counts = prompts[counts <= most], counts[counts <= most]
    order = np.argsort(mix_keys(prompts, seed), kind="stable")
    return np.isin(prompt_keys, prompts[order[np.cumsum(counts[order]) <= most]])
