# SPDX-License-Identifier: BSD-2-Clause
"""The register map."""

from dataclasses import replace

import pytest

from rtl.config import CONFIGS
from rtl.isa import ISA_VERSION, Stall
from rtl.registers import (
    ADDRESS_BITS,
    ARGUMENTS,
    DROPPED_ROWS,
    READBACK,
    REGISTERS,
    STATUS,
    Access,
    Field,
    Register,
    constants,
    readback_words,
    register,
)


def test_registers_do_not_overlap():
    taken: dict[int, str] = {}
    for r in REGISTERS:
        for at in r.words:
            assert at not in taken, f"{r.name} and {taken[at]} are both at {at:#x}"
            assert at % 4 == 0
            assert at < 1 << ADDRESS_BITS
            taken[at] = r.name
    assert list(taken) == sorted(taken), "registers are not in the order of their addresses"
    assert len({r.name for r in REGISTERS}) == len(REGISTERS)


def test_control_registers_are_where_hls_has_them():
    assert [(r.name, r.offset) for r in REGISTERS[:5]] == [
        ("CTRL", 0x00), ("GIE", 0x04), ("IER", 0x08), ("ISR", 0x0C), ("MODEL_ADDR", 0x10)]
    assert [(f.name, f.mask) for f in register("CTRL").fields] == [
        ("ap_start", 1), ("ap_done", 2), ("ap_idle", 4), ("ap_ready", 8)]


def test_every_register_is_argument_constant_or_status():
    arguments, status = {r.name for r in ARGUMENTS}, {r.name for r in STATUS}
    fixed = set(constants(CONFIGS["tiny"]))
    control = {"CTRL", "GIE", "IER", "ISR", "SOFT_RESET"}
    readback = {r.name for r in READBACK}
    groups = [arguments, status, fixed, control, readback]
    assert sum(map(len, groups)) == len(REGISTERS)
    assert set.union(*groups) == {r.name for r in REGISTERS}
    assert {r.access for r in ARGUMENTS} == {Access.RW}
    assert {r.access for r in (*STATUS, *READBACK)} == {Access.RO}


def test_every_cause_of_a_stall_has_a_counter():
    for cause in Stall:
        assert register(f"STALL_{cause.name}") in STATUS


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_constants_hold_the_configuration(config):
    values = constants(config)
    assert values["VERSION"] == ISA_VERSION
    got = {f.name: values[r.name] >> f.low & ((1 << f.width) - 1)
           for r in REGISTERS if r.name in values and r.name != "VERSION" for f in r.fields}
    port_bytes = got.pop("port_bytes")
    assert port_bytes * 8 == config.port_bits
    assert got.pop("max_rows") == config.pass_rows
    for name, value in got.items():
        assert value == getattr(config, name), (
            f"{name}: expected {getattr(config, name)}, got {value}")


def _field(low: int, width: int) -> Field:
    return Field(name="f", low=low, width=width, access=Access.RW, description="")


@pytest.mark.parametrize(("arguments", "message"), [
    ({"offset": 2}, "X is at 0x2, must be at a multiple of 4"),
    ({"offset": 4, "width": 64}, "X is at 0x4, must be at a multiple of 8"),
    ({"offset": 0, "width": 16}, "X has 16 bits, must have 32 or 64"),
    ({"offset": 0x1000}, "X ends at 0x1004, must end at 0x1000 or before"),
    ({"offset": 0xFF8, "count": 3}, "X ends at 0x1004, must end at 0x1000 or before"),
    ({"offset": 0, "fields": (_field(0, 4), _field(3, 1))}, "takes bits 3 to 3, must be free"),
    ({"offset": 0, "fields": (_field(30, 4),)}, "takes bits 30 to 33, must be free and below 32"),
])
def test_register_refuses_what_cannot_be(arguments, message):
    with pytest.raises(ValueError, match=message):
        Register(name="X", description="", **{"fields": (), **arguments})


def test_register_by_name():
    assert register("CYCLES").width == 64
    assert list(register("CYCLES").words) == [0x80, 0x84]
    with pytest.raises(ValueError, match="no register is called 'CYCLE', there are CTRL, GIE"):
        register("CYCLE")


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_words_from_the_core(config):
    selectors, rows = readback_words(replace(config, pruning=True))
    assert [4 * at for at in selectors] == [
        at for s in range(15) for at in register(f"SELECTOR_{s}").words]
    assert {4 * at for at in rows} <= set(register("DROPPED").words)
    assert 8 * len(rows) - config.residual_rows in range(8)
    assert readback_words(replace(config, pruning=False)) == ()


def test_array_of_registers():
    """Large enough for every configuration."""
    dropped = register("DROPPED")
    assert list(dropped.words) == [0x400 + 4 * i for i in range(512)]
    assert DROPPED_ROWS * dropped.count == 4 * 1024
