# SPDX-License-Identifier: BSD-2-Clause
"""Runner for fixed-latency blocks: numbers in, numbers out, one row a cycle."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from amaranth.hdl import Value
from amaranth.lib import data
from amaranth.sim import Simulator
from numpy.typing import ArrayLike, NDArray

__all__ = ["assert_equal", "run", "table_writes", "tiles"]


def _pack(layout: data.ArrayLayout, lanes: Sequence[int]) -> int:
    width = layout.elem_shape.width
    return sum((int(v) & ((1 << width) - 1)) << (i * width) for i, v in enumerate(lanes))


def _unpack(layout: data.ArrayLayout, bits: int) -> list[int]:
    shape = layout.elem_shape
    lanes = []
    for i in range(layout.length):
        v = (bits >> (i * shape.width)) & ((1 << shape.width) - 1)
        lanes.append(v - (1 << shape.width) if shape.signed and v >> (shape.width - 1) else v)
    return lanes


def _layout(port) -> data.Layout | None:
    return port.shape() if isinstance(port, data.View) else None


def _set(ctx, port, value) -> None:
    if isinstance(_layout(port), data.ArrayLayout):
        ctx.set(Value.cast(port), _pack(_layout(port), value))
    elif isinstance(_layout(port), data.Layout):
        ctx.set(port, {name: int(v) for name, v in value.items()})
    else:
        ctx.set(Value.cast(port), int(value))


def _get(ctx, port) -> int | list[int]:
    bits = ctx.get(Value.cast(port))
    return _unpack(_layout(port), bits) if isinstance(_layout(port), data.ArrayLayout) else bits


def run(dut, inputs: Mapping[str, Sequence | NDArray], outputs: Mapping[str, int], *,
        loop: tuple[str, str, int, Callable] | None = None,
        tables: Sequence[Mapping[str, object]] = ()) -> dict[str, NDArray[np.int64]]:
    """Drive one row of ``inputs`` per cycle and return the rows of ``outputs`` that belong to them.

    ``outputs`` gives the latency of each. ``loop`` is ``(output, input, latency, function)``: a
    model of a block outside, between an output and an input. ``tables`` are set for one cycle
    each before the first row. A row of an input that is a struct is a dict.
    """
    count = len(next(iter(inputs.values())))
    got: dict[str, list] = {name: [] for name in outputs}

    async def bench(ctx):
        for entry in tables:
            for name, value in entry.items():
                _set(ctx, getattr(dut, name), value)
            await ctx.tick()
        for name in {name for entry in tables for name in entry}:
            ctx.set(Value.cast(getattr(dut, name)), 0)
        outside = []
        for cycle in range(count + max(outputs.values())):
            if cycle < count:
                for name, rows in inputs.items():
                    _set(ctx, getattr(dut, name), rows[cycle])
            if loop is not None:
                source, target, latency, function = loop
                outside.append(function(_get(ctx, getattr(dut, source))))
                if cycle >= latency:
                    _set(ctx, getattr(dut, target), outside[cycle - latency])
            for name, latency in outputs.items():
                if latency <= cycle < latency + count:
                    got[name].append(_get(ctx, getattr(dut, name)))
            await ctx.tick()

    sim = Simulator(dut)
    sim.add_clock(1e-6)
    sim.add_testbench(bench)
    sim.run()
    return {name: np.array(rows, np.int64) for name, rows in got.items()}


def assert_equal(stage: str, expected: ArrayLike, got: ArrayLike) -> None:
    """Fail with the first index at which two arrays differ."""
    expected, got = np.asarray(expected), np.asarray(got)
    assert expected.shape == got.shape, f"{stage}: {expected.shape} values expected, {got.shape}"
    for index in np.argwhere(expected != got)[:1]:
        index = tuple(int(i) for i in index)
        raise AssertionError(f"{stage} {index}: expected {expected[index]}, got {got[index]}")


def table_writes(table: NDArray[np.int64]) -> list[dict[str, object]]:
    """Return the writes that fill the table of a scalar evaluator."""
    return [{"write_en": 1, "write_row": row, "write_data": {"c0": c0, "c1": c1, "c2": c2}}
            for row, (c0, c1, c2) in enumerate(table.tolist())]


def tiles(rng: np.random.Generator, *, rows: int, tiles: int, max_rows: int,
          gaps: bool = True) -> dict[str, NDArray[np.int64]]:
    """Return ``valid``, ``row``, ``first``: the same rows in each of a number of tiles.

    A row returns after 16 cycles or after all other rows, whichever is later; with ``gaps`` some
    of the cycles that are not valid come among the rows. What is not valid is random.
    """
    order = rng.permutation(max_rows)[:rows]
    period = max(16, rows + (3 if gaps else 0))
    at = np.sort(rng.permutation(period)[:rows]) if gaps else np.arange(rows)
    schedule = {name: np.zeros((tiles, period), np.int64) for name in ("valid", "row", "first")}
    schedule["valid"][:, at] = 1
    schedule["row"][:] = rng.integers(0, max_rows, period)
    schedule["row"][:, at] = order
    schedule["first"][:] = rng.integers(0, 2, (tiles, period))
    schedule["first"][:, at] = np.arange(tiles)[:, None] == 0
    return {name: values.ravel() for name, values in schedule.items()}
