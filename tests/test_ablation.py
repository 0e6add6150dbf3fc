# SPDX-License-Identifier: BSD-2-Clause
"""The other ways to search find the same patches; tables go where they belong."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from amaranth.hdl import unsigned
from amaranth.lib.wiring import Component
from amaranth.sim import Simulator

from platforms import ablation
from platforms.ablation import BitonicSorter, GatedTree, MaskedScores, PlaneSearch, main
from platforms.synthesis import Cells
from rtl.config import named
from rtl.search import TopKSearch
from rtl.selector import Selector
from rtl.shares import Shares
from rtl.tree import AdderTree
from tests.pipeline import assert_equal, run
from tests.test_search import Case, cases_of, kept_by_sort, search_all

TINY = named("tiny")
TOP = (1 << 16) - 1


def _sorted_by(size, scores, cuts):
    """Return, for each list of scores, the places that a sorter gives, greatest score first."""
    place_bits = (size - 1).bit_length()
    dut = BitonicSorter(size=size, bits=16 + place_bits)
    found = []

    async def bench(ctx):
        for row, keep in zip(scores, cuts, strict=True):
            ctx.set(dut.clear, 1)
            await ctx.tick()
            ctx.set(dut.clear, 0)
            ctx.set(dut.shift, 1)
            for place, score in enumerate(row):
                # Of equal scores the earlier one is the greater key.
                ctx.set(dut.i, int(score) << place_bits | (size - 1 - place))
                await ctx.tick()
            ctx.set(dut.shift, 0)
            ctx.set(dut.start, 1)
            await ctx.tick()
            ctx.set(dut.start, 0)
            await ctx.tick().repeat(dut.latency - 1)
            assert ctx.get(dut.busy)
            await ctx.tick()
            assert not ctx.get(dut.busy)
            ctx.set(dut.shift, 1)
            places = []
            for _ in range(keep):
                places.append(size - 1 - (ctx.get(dut.o) & (size - 1)))
                await ctx.tick()
            ctx.set(dut.shift, 0)
            found.append(places)

    sim = Simulator(dut)
    sim.add_clock(1e-6)
    sim.add_testbench(bench)
    sim.run()
    return found


@pytest.mark.parametrize("size", [4, 8, 32])
def test_sorting_network(size):
    """All orders of few keys, and lists shorter than the network; ties stay in order."""
    rng = np.random.default_rng(size)
    scores = [rng.integers(0, TOP + 1, rng.integers(1, size + 1)) >> shift
              for shift in (0, 8, 13, 15, 16) for _ in range(6)]
    scores += [np.full(size, TOP), np.zeros(size, int), np.arange(size), np.arange(size)[::-1]]
    cuts = [int(rng.integers(0, len(row) + 1)) for row in scores]
    found = _sorted_by(size, scores, cuts)
    for row, keep, places in zip(scores, cuts, found, strict=True):
        order = sorted(range(len(row)), key=lambda i: (-row[i], i))
        assert places == order[:keep], f"{row.tolist()}: expected {order[:keep]}, got {places}"
        assert sorted(places) == kept_by_sort(row.tolist(), keep)


def test_bit_planes():
    """The cases of TopKSearch, and every number of tokens of a small one."""
    search_all(replace(TINY, columns=64, max_tokens=204), cases_of(150), PlaneSearch)
    rng = np.random.default_rng(1)
    small = replace(TINY, max_tokens=40)
    search_all(small, [
        Case(tuple((rng.integers(0, TOP + 1, n) >> rng.integers(0, 16)).tolist()), 1, n - 1,
             int(rng.integers(0, n + 1))) for n in range(1, 41)], PlaneSearch)


@pytest.mark.parametrize("shared", [False, True])
def test_masked_scores(shared):
    """Rows masked as in RowMax; with ``shared``, scores and threshold whose order is the same."""
    rng = np.random.default_rng(2)
    numbers, enable = rng.integers(-32768, 32768, (200, 8)), rng.integers(0, 256, 200)
    compare = rng.integers(0, 2, 200)
    scores = rng.integers(0, TOP + 1, (200, 4)) >> rng.integers(0, 16, (200, 1))
    threshold = scores[np.arange(200), rng.integers(0, 4, 200)]
    got = run(MaskedScores(columns=8, shared=shared),
              {"data": numbers, "enable": enable, "compare": compare, "scores": scores,
               "threshold": threshold}, {"o": 1})["o"]
    searched = compare.astype(bool) & shared
    mask = enable[:, None] >> np.arange(8) & 1
    assert_equal("o", np.where(mask, numbers, -32768)[~searched], got[~searched])
    assert_equal("below", (scores < threshold[:, None])[searched],
                 (got[:, 0::2] > got[:, 1::2])[searched])


def test_gated_tree():
    rng = np.random.default_rng(3)
    e, hit = rng.integers(0, 256, (100, 16)), rng.integers(0, 256, 100)
    count = rng.integers(0, 2, 100)
    latency = AdderTree(inputs=16, shape=unsigned(8)).latency
    got = run(GatedTree(inputs=16, hits=8), {"e": e, "hit": hit, "count": count}, {"o": latency})
    hits = [int(h).bit_count() for h in hit]
    assert_equal("o", np.where(count, hits, e.sum(1)), got["o"])


def _fake(component: Component) -> Cells:
    return Cells(lut=1000 * len(type(component).__name__), lutram=7, ff=2)


def test_tables(monkeypatch, tmp_path, capsys):
    """Every way has a row; the page is otherwise as it was, and says so when it has no place."""
    monkeypatch.setattr(ablation, "cells", _fake)
    assert main(["--config", "tiny"]) == 0
    printed = capsys.readouterr().out
    rows = [line.split(" | ") for line in printed.splitlines() if line.startswith("| b")]
    assert [row[1] for row in rows] == ["305", "337", "305", "49 + k"]
    # To the fake all of a class are one: sharing adds nothing, and leaves out the comparators.
    assert rows[0][2:4] == ["10,007", "7"]
    assert rows[1][2:4] == ["-1,000", "0"]

    page = tmp_path / "page.md"
    page.write_text("before\n<!-- ablation: begin -->\nold\n<!-- ablation: end -->\nafter\n")
    assert main(["--config", "tiny", "--update", str(page)]) == 0
    assert page.read_text() == ("before\n<!-- ablation: begin -->\n\n" + printed
                                + "\n<!-- ablation: end -->\nafter\n")

    for text in ("", "<!-- ablation: begin -->\n"):
        page.write_text(text)
        assert main(["--config", "tiny", "--update", str(page)]) == 2
        assert f"{page} lacks the lines" in capsys.readouterr().err
        assert page.read_text() == text
    assert main(["--config", "tiny", "--update", str(tmp_path / "none.md")]) == 2
    assert "No such file" in capsys.readouterr().err
    assert main(["--config", "huge"]) == 2
    assert "no configuration is called 'huge'" in capsys.readouterr().err


def test_page(monkeypatch):
    """The ways and the cycles that docs/selector.md states are those of the design."""
    monkeypatch.setattr(ablation, "cells", _fake)
    config = named("zcu102")
    page = (Path(__file__).parent.parent / "docs" / "selector.md").read_text()
    rows = [line.split(" | ")[:2] for line in ablation.report(config).splitlines()
            if line.startswith("| b")]
    assert len(rows) == 4
    for name, cycles in rows:
        assert f"{name} | {cycles} | " in page

    search = TopKSearch(config)
    step = -(-config.max_tokens // config.comparators) + search.step_cycles
    shares = Shares.finish_cycles(58)
    scan = Selector.busy_cycles(config.max_tokens, 58) - shares
    for name, cycles in (("one step", step), ("16 steps, and one cycle for `done`", 16 * step + 1),
                         ("search", 16 * step + 1),
                         ("scan, a position a cycle, with its pipeline", scan),
                         ("weights, sum, reciprocal, shares, at most", shares),
                         ("all, at most", 16 * step + 1 + scan + shares)):
        assert f"| {name} | {cycles} |\n" in page, f"{name}: {cycles}"


def test_cells_of_all_parts():
    """The real synthesis, of something small: two adders of one bit below one of two bits."""
    found = ablation.cells(AdderTree(inputs=4, shape=unsigned(1)))
    assert found.ff == 3 and 1 <= found.lut <= 8 and found.dsp == 0
