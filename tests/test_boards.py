# SPDX-License-Identifier: BSD-2-Clause
"""Boards: what they say of themselves, and what does not fit."""

from dataclasses import FrozenInstanceError, replace

import pytest

from platforms.boards import BoardError, Limits, Segment, demand
from platforms.boards_data import BOARDS, board_named
from platforms.figures import ALL, load
from rtl.config import named

_LUTS = load("zcu102 dsp48e2")[ALL]["luts"]


@pytest.mark.parametrize("name", BOARDS)
def test_the_configuration_of_a_board_fits(name: str) -> None:
    board = board_named(name)
    board.check(replace(named(board.config), multiplier=board.multiplier))
    assert board.name == name and board.part and board.why


@pytest.mark.parametrize(("board", "config", "said"), [
    ("pynq_z2", "tiny", "configuration tiny takes 230 DSPs, PYNQ-Z2 has 220"),
    ("kv260", "zcu102", f"configuration zcu102 takes {_LUTS:,} LUTs, KV260 has 117,120"),
    ("kv260", "kv260", "kv260 takes at least 202 block RAMs of 36 kbit, KV260 has 144"),
    ("kv260", "kv260-64x64", "at least 2,048 DSPs, KV260 has 1,248"),
    ("zcu104", "zcu102-64x128", "at least 4,096 DSPs, ZCU104 has 1,728"),
    ("ulx3s", "zcu104", "zcu104 takes at least 198 block RAMs of 36 kbit, ULX3S-85F has 104"),
])
def test_what_does_not_fit_is_refused(board: str, config: str, said: str) -> None:
    with pytest.raises(BoardError, match=said):
        board_named(board).check(replace(named(config), multiplier=board_named(board).multiplier))


def test_memory_ports_are_counted() -> None:
    board = board_named("zcu102")
    with pytest.raises(BoardError, match="tiny has memory ports of 64 bits, those of .* have 32"):
        ports = tuple(replace(port, bits=32) for port in board.system.ports)
        replace(board, system=replace(board.system, ports=ports)).check(named("tiny"))
    with pytest.raises(BoardError, match="zcu102 has 4 memory ports, ZCU102 has 2"):
        system = replace(board.system, ports=board.system.ports[:2])
        replace(board, system=system).check(replace(named("zcu102"), multiplier="dsp48e2"))


def test_demand_is_that_of_the_record_or_less() -> None:
    for config, board in (("tiny", "pynq_z2"), ("ulx3s", "ulx3s"), ("zcu102", "zcu102")):
        found, measured = demand(replace(named(config), multiplier=BOARDS[board].multiplier),
                                 BOARDS[board])
        least, guessed = demand(replace(named(config), name="other"), BOARDS[board])
        assert measured and not guessed
        assert all(0 < least[key] <= found[key] for key in least)


def test_families_have_records_of_their_own() -> None:
    config = named("ulx3s")
    found, measured = demand(config, BOARDS["ulx3s"])
    assert measured and found == load("ulx3s ecp5")[ALL]
    assert demand(named("tiny"), BOARDS["ulx3s"])[1] is False
    assert demand(replace(config, name="other"), BOARDS["ulx3s"])[0].keys() == {"bram"}


def test_properties_switch_on_the_ports_that_are_used() -> None:
    found = board_named("zcu102").system.properties(300, 2)
    assert found["CONFIG.PSU__CRL_APB__PL0_REF_CTRL__FREQMHZ"] == "300"
    assert [found[f"CONFIG.PSU__USE__S_AXI_GP{i}"] for i in range(2, 6)] == ["1", "1", "0", "0"]
    assert found["CONFIG.PSU__SAXIGP3__DATA_WIDTH"] == "128"
    assert "CONFIG.PSU__SAXIGP4__DATA_WIDTH" not in found


def test_data_is_checked() -> None:
    with pytest.raises(BoardError, match="no board is called 'zcu103', there are zcu102, zcu104"):
        board_named("zcu103")
    with pytest.raises(BoardError, match="zcu102 is 280 MHz, must be a whole part of 1500"):
        replace(board_named("zcu102"), clock_mhz=280)
    with pytest.raises(BoardError, match="dsp is 0, must be more than 0"):
        Limits(luts=1, ff=1, dsp=0, bram=1)
    with pytest.raises(BoardError, match="segment a has 0x3000 bytes at 0x0"):
        Segment(name="a", offset=0, bytes=0x3000)
    with pytest.raises(FrozenInstanceError):
        board_named("zcu102").part = "other"
