# SPDX-License-Identifier: BSD-2-Clause
"""Pages about boards: what they say is what there is."""

from pathlib import Path

import pytest

from platforms.board_page import boards_table, folder_page
from platforms.boards_data import BOARDS
from platforms.build import board_config
from platforms.linux import linux_files

DOCS = Path(__file__).parent.parent / "docs"


def test_the_table_is_up_to_date() -> None:
    page = (DOCS / "boards.md").read_text()
    assert f"<!-- boards: begin -->\n\n{boards_table()}\n\n<!-- boards: end -->" in page, (
        "run python -m platforms.board_page")


@pytest.mark.parametrize("name", [name for name, board in BOARDS.items() if board.system])
def test_the_page_of_a_build_has_its_addresses(name: str) -> None:
    board = BOARDS[name]
    config = board_config(board)
    page = folder_page(board, config)
    assert f"| {board.system.master} | `s_axi_control` | {board.system.control:#x} |" in page
    for p, port in enumerate(board.system.ports):
        assert (f"| {port.interface} | `m_axi_gmem{p}` | 0x0 to " in page) == (p < config.ports)


@pytest.mark.parametrize("name", [name for name, board in BOARDS.items() if board.system])
def test_the_page_of_a_build_has_its_device_tree(name: str) -> None:
    """Where there is a device tree to fill in, ``run.sh`` leaves one; elsewhere it does not."""
    page = folder_page(BOARDS[name], board_config(BOARDS[name]))
    assert "{" not in page
    for text in ("`heatvit.dts`, `report.json`", "copy\n   `linux/system-user.dtsi` to",
                 "the overlay"):
        assert (text in page) == bool(linux_files(BOARDS[name]))


def test_the_page_of_a_core_has_no_addresses() -> None:
    page = folder_page(BOARDS["u250"], board_config(BOARDS["u250"]))
    assert "no block design for this board" in page and "deploy" not in page
