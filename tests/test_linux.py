# SPDX-License-Identifier: BSD-2-Clause
"""Files for Linux: the overlay says what the board and the registers say."""

import json
import re

import pytest

from platforms.boards_data import BOARDS
from platforms.linux import BUFFER_BYTES, linux_files


@pytest.mark.parametrize("name", ["zcu102", "zcu104", "kv260"])
def test_overlay(name: str) -> None:
    board = BOARDS[name]
    files = linux_files(board)
    text = re.sub(r"//.*", "", files["heatvit.dts.in"])
    # As a compiler would read it: blocks closed, every statement ended.
    assert text.count("{") == text.count("}") == text.count("};")
    for statement in re.split(r"[{;]", text.replace("/dts-v1/;", "").replace("/plugin/;", "")):
        assert re.fullmatch(r'\s*(|\}|&\w+|(\w+: )?\w+(@\w+)?|[\w#,-]+ = ("[^"]*"|<[^>]*>'
                            r"(, <[^>]*>)*))\s*", statement), statement
    properties = dict(re.findall(r"^\t+([\w#-]+) = (.*);$", text, re.M))
    assert properties["reg"] == f"<0x0 {board.system.control:#x} 0x0 0x1000>"
    assert properties["assigned-clock-rates"] == "<@CLOCK_HZ@>"
    assert properties["size"] == f"<0x0 {BUFFER_BYTES:#x}>"
    assert properties["interrupts"] == "<0 89 4>"
    assert text.count('"generic-uio"') == text.count('"ikwzm,u-dma-buf"') == 1
    user = files["system-user.dtsi"]
    assert user.count("{") == user.count("};") == 3 and "&heatvit_0 {" in user
    assert json.loads(files["shell.json"])["num_slots"] == "1"
    assert "../output/heatvit.bit" in files["heatvit.bif"]


def test_other_devices_have_none() -> None:
    assert not linux_files(BOARDS["pynq_z2"]) and not linux_files(BOARDS["ulx3s"])
