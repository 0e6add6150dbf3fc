# SPDX-License-Identifier: BSD-2-Clause
"""The core of a bitstream, on a board with PYNQ."""

from __future__ import annotations

import asyncio
import importlib
from pathlib import Path
from typing import Any

from .core import HeatViT

__all__ = ["open_bitstream"]


def open_bitstream(bitstream: str | Path, *, use_interrupt: bool = False) -> HeatViT:
    """Load a bitstream, with its ``.hwh`` beside it, and return the core in it.

    The IP is the one called ``heatvit``, or ``heatvit_0``. ``use_interrupt`` needs the interrupt in
    the block design; without it the registers are polled.
    """
    try:
        pynq: Any = importlib.import_module("pynq")  # which only boards have
    except ImportError as error:
        raise ImportError(f"{bitstream} cannot be loaded without PYNQ, which cannot be imported:"
                          f" {error}") from error
    overlay = pynq.Overlay(str(bitstream))
    names = [name for name in overlay.ip_dict if name.startswith("heatvit")]
    if len(names) != 1:
        raise ValueError(f"{bitstream} has {len(names)} IP called heatvit, must have 1")
    core = getattr(overlay, names[0])

    def interrupt(seconds: float) -> bool:
        async def wait() -> bool:
            done, pending = await asyncio.wait([asyncio.ensure_future(core.interrupt.wait())],
                                               timeout=seconds)
            for task in pending:
                task.cancel()
            return bool(done)

        loop: Any = asyncio.get_event_loop()
        return bool(loop.run_until_complete(wait()))

    return HeatViT(core, pynq.allocate, interrupt=interrupt if use_interrupt else None)
