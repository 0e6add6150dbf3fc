# SPDX-License-Identifier: BSD-2-Clause
"""Epilogue: every destination and scale source against docs/arithmetic.md, one row a cycle."""

import numpy as np
import pytest

from golden.fixed import round_shift, saturate
from rtl.config import SCALE_SLOTS, Config, named
from rtl.epilogue import Epilogue
from rtl.isa import ColumnScale, Destination, ScaleSource
from rtl.poly import PolyLanes
from tests.pipeline import assert_equal, run

TINY = named("tiny")
WIDE = Config(**{**TINY.to_dict(), "columns": 32, "load_rows": 2})
LIMIT = (1 << 26) - 1
#: Destinations of the lane polynomial.
GELU = (Destination.ACT.value, Destination.VALUE.value, Destination.SELECTOR.value)


def _gelu(x):
    """Return a stand-in for the table: corners, ties, and numbers beyond int8 at both ends."""
    corners = {0: -(1 << 31), 1: (1 << 31) - 1, 2: 127 << 10, 3: (127 << 10) + 512, 4: -(128 << 10),
               5: -(128 << 10) - 513, 6: 512, 7: -512, 8: 511, 9: -513}
    return [corners.get(v, v) for v in x]


def _scales(rng, shape):
    """Return columns of bias and scale that bring accumulators to about every output range."""
    return {"bias": rng.integers(-(1 << 25), 1 << 25, shape) >> rng.integers(0, 26, shape),
            "m": rng.integers(1 << 16, 1 << 17, shape), "s": rng.integers(17, 40, shape)}


def _tables(columns, bytes_at_once):
    """Return the writes that fill all slots, some bytes of every column at a time."""
    slots, lanes = columns["m"].shape
    bits = 8 * bytes_at_once
    words = [[ColumnScale.const({k: int(v[slot, i]) for k, v in columns.items()}).as_bits()
              for i in range(lanes)] for slot in range(slots)]
    return [{"param_en": 1, "param_slot": slot, "param_word": at,
             "param_data": [word >> bits * at & ((1 << bits) - 1) for word in words[slot]]}
            for slot in range(slots) for at in range(8 // bytes_at_once)]


def _rows(config, rng, count):
    lanes = config.columns
    scales = [{"m": m, "s": s}
              for m, s in rng.integers((1 << 16, 8), (1 << 17, 40), (2 * count, 2)).tolist()]
    destination = rng.integers(0, len(Destination), count)
    acc = rng.integers(-(1 << 25), 1 << 25, (count, lanes)) >> rng.integers(0, 26, (count, 1))
    # An exact scale of 1: rounding, and every limit and its neighbours arrive as they are.
    edges = [0, 1, -1, 126, 127, 128, -127, -128, -129, 32767, 32768, -32768, -32769, 131071,
             131072, -131072, -131073, LIMIT, -LIMIT, 2, 3, 4, 5, 6, 7, 8, 9, -2, -3, 17, 100, -100]
    for row in range(24):
        acc[row] = [edges[(i + row * lanes) % len(edges)] for i in range(lanes)]
        destination[row] = row % len(Destination)
    old = rng.integers(-32768, 32768, (count, lanes))
    whole = destination == Destination.LOGIT.value
    old[whole] = rng.integers(-LIMIT, LIMIT, (whole.sum(), lanes))
    old[6:24, 0::2], old[6:24, 1::2] = 32767, -32768
    rows = {"acc": acc, "destination": destination,
            "gelu": np.where(np.isin(destination, GELU), rng.integers(0, 2, count), 0),
            "scale_source": rng.integers(0, 3, count), "slot": rng.integers(0, SCALE_SLOTS, count),
            "const_scale": scales[:count], "row_scale": scales[count:], "old": old}
    rows["scale_source"][:24] = ScaleSource.CONSTANT.value
    rows["gelu"][0:7], rows["gelu"][[7, 10, 13]] = 0, 1
    for row in range(24):
        rows["const_scale"][row] = {"m": 1 << 16, "s": 16}
    return rows


def _expected(rows, columns):
    source = rows["scale_source"][:, None]
    slot = rows["slot"]
    const, row = ({k: np.array([v[k] for v in rows[name]])[:, None] for k in ("m", "s")}
                  for name in ("const_scale", "row_scale"))
    m, s = (np.select([source == ScaleSource.COLUMN.value, source == ScaleSource.ROW.value],
                      [columns[k][slot], row[k]], const[k]) for k in ("m", "s"))
    bias = np.where(source == ScaleSource.COLUMN.value, columns["bias"][slot], 0)
    v = saturate(round_shift((rows["acc"] + bias) * m, s), 27)
    x = saturate(v, 18)
    gelu = round_shift(np.array([_gelu(row) for row in x.tolist()]), 10)
    narrow = np.where(rows["gelu"][:, None] == 1, gelu, v)
    return x, np.choose(rows["destination"][:, None], [
        saturate(narrow, 8),
        saturate(rows["old"] + x, 16),
        saturate(v, 8, symmetric=True),
        saturate(narrow, 8, symmetric=True),
        saturate(v, 16),
        saturate(rows["old"] + v, 27),
        saturate(narrow, 8),
    ])


@pytest.mark.parametrize("config", [TINY, WIDE], ids=["16x16", "16x32"])
def test_every_destination(config):
    rng = np.random.default_rng(11)
    count = 300
    columns = _scales(rng, (SCALE_SLOTS, config.columns))
    rows = _rows(config, rng, count)
    dut = Epilogue(config)
    delayed = np.concatenate([np.zeros((dut.OLD_DELAY, config.columns), np.int64), rows["old"]])
    padding = {name: np.concatenate([v, np.repeat(v[-1:], dut.OLD_DELAY, 0)])
               if isinstance(v, np.ndarray) else v + v[-1:] * dut.OLD_DELAY
               for name, v in rows.items()}
    got = run(dut, {**padding, "old": delayed},
              {"gelu_x": dut.LATENCY - PolyLanes.LATENCY - 4, "data": dut.LATENCY},
              loop=("gelu_x", "gelu_y", PolyLanes.LATENCY, _gelu),
              tables=_tables(columns, config.load_rows))
    x, data = _expected(rows, columns)
    for destination in Destination:
        bits = {"RESIDUAL": 16, "SCORE": 16, "LOGIT": 27}.get(destination.name, 8)
        lowest = -(1 << (bits - 1)) + (destination.name in ("KEY", "VALUE"))
        for gelu in range(1 + (destination.value in GELU)):
            written = data[(rows["destination"] == destination.value) & (rows["gelu"] == gelu)]
            assert written.max() == (1 << (bits - 1)) - 1, f"{destination}: no upper end"
            assert written.min() == lowest, f"{destination}: no lower end"
    assert_equal("gelu_x", x, got["gelu_x"][:count])
    assert_equal("data", data, got["data"][:count])
