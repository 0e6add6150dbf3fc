# SPDX-License-Identifier: BSD-2-Clause
"""When a stream is held up in a test: never, at random, or in bursts."""

import random
from collections.abc import Iterator

__all__ = ["KINDS", "stalls"]

#: The three ways in which every stream is tested.
KINDS = ("none", "random", "bursty")


def stalls(kind: str, seed: int) -> Iterator[bool]:
    """Yield for every cycle whether the stream is held up in it."""
    rng = random.Random(f"{kind}{seed}")
    while True:
        if kind == "none":
            yield False
        elif kind == "random":
            yield rng.random() < 0.4
        else:
            yield from [False] * rng.randrange(1, 30)
            yield from [True] * rng.randrange(1, 40)
