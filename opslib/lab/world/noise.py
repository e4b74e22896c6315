"""Chance that depends on nothing but a seed, a name and a time: any moment can be computed without those before it.

A number is a hash of its key and its counter (splitmix64, https://prng.di.unimi.it/splitmix64.c), so that it is the same in any order of
asking, on any machine.
"""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Words = npt.NDArray[np.uint64]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_FIRST = np.uint64(0xBF58476D1CE4E5B9)
_SECOND = np.uint64(0x94D049BB133111EB)


def key(seed: int, *names: object) -> int:
    """A 64-bit number for a name under a seed."""
    text = "\0".join([str(seed), *(str(name) for name in names)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def keys(seed: int, *names: object, rows: list[str]) -> Words:
    """Keys of many names that begin alike."""
    return np.array([key(seed, *names, row) for row in rows], np.uint64)


def words(key: npt.ArrayLike, counter: npt.ArrayLike) -> Words:
    """64 bits for each pair of key and counter; the two are broadcast."""
    steps = np.atleast_1d(np.asarray(counter).astype(np.int64)).view(np.uint64)
    mixed = _mixed(np.atleast_1d(np.asarray(key, np.uint64)) + steps * _GOLDEN)
    return _mixed(mixed + _GOLDEN)


def uniform(key: npt.ArrayLike, counter: npt.ArrayLike) -> Floats:
    """Numbers from 0 up to 1, without 1."""
    drawn: Floats = (words(key, counter) >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return drawn


def one(seed: int, *names: object) -> float:
    """A single number from 0 up to 1."""
    return (key(seed, *names) >> 11) * 2.0**-53


def smooth(key: npt.ArrayLike, times: Floats, period: float) -> Floats:
    """Noise from -1 to 1 that wanders from one random level to the next in `period` seconds; keys and times are broadcast."""
    place = times / period
    before = np.floor(place)
    part = place - before
    part = part * part * (3 - 2 * part)
    low = uniform(key, before.astype(np.int64))
    high = uniform(key, before.astype(np.int64) + 1)
    wandered: Floats = 2 * (low + (high - low) * part) - 1
    return wandered


def name_part(seed: int, *names: object, length: int) -> str:
    """Letters as Kubernetes draws them for the ends of names (apimachinery's util/rand: no vowels, no 0, 1 or 3)."""
    alphabet = "bcdfghjklmnpqrstvwxz2456789"
    number, text = key(seed, *names), ""
    for _place in range(length):
        number, digit = divmod(number, len(alphabet))
        text += alphabet[digit]
    return text


def _mixed(state: Words) -> Words:
    state = (state ^ (state >> np.uint64(30))) * _FIRST
    state = (state ^ (state >> np.uint64(27))) * _SECOND
    return state ^ (state >> np.uint64(31))
