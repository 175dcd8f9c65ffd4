"""Random numbers that depend on what they are for and on nothing else: not on order, not on global state."""

from __future__ import annotations

import hashlib

import numpy as np


def derive_seed(*parts: str | int) -> int:
    """Hash (split fingerprint, purpose, seed, ...) into a 63-bit seed for a torch or numpy generator."""
    text = "\x1f".join(str(part) for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def generator(*parts: str | int) -> np.random.Generator:
    """A numpy generator seeded by ``derive_seed``."""
    return np.random.default_rng(derive_seed(*parts))
