# SPDX-License-Identifier: BSD-2-Clause
"""What is wrong with an instruction: the first one of a program that is refused, or none."""

from dataclasses import replace

import pytest
from amaranth.sim import Simulator

from golden.program import LAYOUTS
from rtl import isa
from rtl.checks import InstructionCheck
from rtl.config import Config, named
from rtl.isa import Destination, Opcode, Prologue, Rows, ScaleSource, Source

CONFIG = named("zcu102")
IMAGE, SELECT, PRUNE, LOAD = Opcode.IMAGE, Opcode.SELECT, Opcode.PRUNE, Opcode.LOAD
END = (Opcode.END, {"classes": 10})

#: Cycles of an instruction, at least: four beats.
EACH = 4


def step(**fields):
    """Return a pass that is right unless ``fields`` say not."""
    return Opcode.PASS, {"rows_from": Rows.TOKENS, "column_tiles": 1, "k_tiles": 1} | fields


def select(**fields):
    return SELECT, {"special": 1} | fields


def refused(*body, config: Config = CONFIG, rounds: int = 1, **begin: int) -> int | None:
    """Return the index of the first instruction that is refused, of those behind BEGIN, None if all
    are taken. The rounds after the first one begin at ``loop``."""
    dut = InstructionCheck(config)
    begin = {"tokens": 9, "images": 1, "loop": 1, "instructions": len(body) + 1} | begin
    words = [LAYOUTS[op].const({"opcode": op, **fields}).as_bits() for op, fields in body]
    found = []

    async def bench(ctx):
        ctx.set(dut.begin, begin)
        ctx.set(dut.tokens, begin["tokens"])
        first = 1
        for _ in range(rounds):
            for index in range(first, len(words) + 1):
                ctx.set(dut.index, index)
                await ctx.tick().repeat(EACH - 1)
                ctx.set(dut.word, words[index - 1])
                await ctx.tick()
                if ctx.get(dut.bad):
                    found.append(index)
                    return
                ctx.set(dut.take, 1)
                await ctx.tick()
                ctx.set(dut.take, 0)
            first = begin["loop"]

    sim = Simulator(dut)
    sim.add_clock(1e-6)
    sim.add_testbench(bench)
    sim.run()
    return found[0] if found else None


@pytest.mark.parametrize("body", [
    [(IMAGE, {}), step(), END],
    [(LOAD, {}), (IMAGE, {}), step(row_dependency=0), step(row_dependency=1), END],
    [(IMAGE, {}), select(), (PRUNE, {}), step(rows_from=Rows.DROPPED), select(), (PRUNE, {}), END],
    [(IMAGE, {}), select(special=3), step(of_segment=1), step(rows_from=Rows.EACH), END],
    [(IMAGE, {}), step(source=Source.SCORE, prologue=Prologue.EXP,
                       scale_source=ScaleSource.ROW, class_attention=1), END],
    [(IMAGE, {}), step(source=Source.RESIDUAL, prologue=Prologue.NORM, gelu=1), END],
    [(IMAGE, {}), step(destination=Destination.RESIDUAL, statistics=1, package=1), END],
    [(IMAGE, {}), step(destination=Destination.LOGIT, accumulate=1), END],
    [(IMAGE, {}), step(destination=Destination.SELECTOR, gelu=1), END],
], ids=range(9))
@pytest.mark.parametrize("rounds", [1, 3])
def test_right_programs(body, rounds):
    assert refused(*body, rounds=rounds) is None


def test_a_batch():
    alone = [item for i in range(4) for item in ((IMAGE, {"image": i}), select(image=i))]
    together = [step(of_segment=1, segment=3), step(rows_from=Rows.EACH),
                step(rows_from=Rows.DROPPED, of_segment=1, segment=2)]
    again = [select(segment=i, image=i) for i in range(4)]
    body = [*alone, (PRUNE, {}), *together, *again, (PRUNE, {}), *together, END]
    assert refused(*body, images=4) is None
    assert refused(*body, images=4, rounds=3) is None
    assert refused(*body, images=3) == 7
    # Without the last image its segment is not there.
    assert refused(*alone[:-2], (PRUNE, {}), step(of_segment=1, segment=2), together[0],
                   images=4) == 9
    assert refused(*alone[:-2], (PRUNE, {}), together[1], images=4) == 8
    assert refused(*alone[:-2], (PRUNE, {}), together[1], images=3) is None


@pytest.mark.parametrize(("body", "index"), [
    # Before there is an image
    ([step()], 1), ([select()], 1), ([(PRUNE, {})], 1), ([END], 1),
    # The end
    ([(IMAGE, {}), END, step()], 2), ([(IMAGE, {}), (Opcode.END, {"classes": 0})], 2),
    ([(IMAGE, {}), (Opcode.END, {"classes": CONFIG.max_classes + 1})], 2),
    # Images and rows
    ([(IMAGE, {"image": 1})], 1), ([(LOAD, {"image": 1})], 1),
    ([(IMAGE, {"first_row": CONFIG.residual_rows - 8})], 1),
    # Segments
    ([(IMAGE, {}), step(of_segment=1, segment=1)], 2), ([(IMAGE, {}), select(segment=1)], 2),
    ([(IMAGE, {}), select(image=1)], 2), ([(IMAGE, {}), select(), select()], 3),
    ([(IMAGE, {}), select(), (PRUNE, {}), (PRUNE, {})], 4),
    ([(IMAGE, {}), select(), (PRUNE, {}), step(rows_from=Rows.DROPPED, segment=1)], 4),
    ([(IMAGE, {}), select(), (PRUNE, {}), (IMAGE, {}), step(rows_from=Rows.DROPPED)], 5),
    ([(IMAGE, {}), select(), (PRUNE, {}), select(), step(rows_from=Rows.DROPPED)], 5),
    ([(IMAGE, {}), select(), (IMAGE, {}), (PRUNE, {})], 4),
    ([(IMAGE, {}), select(special=0)], 2),
    # Dependencies
    ([(IMAGE, {}), step(row_dependency=1)], 2),
    ([(IMAGE, {}), step(), step(operand_dependency=2)], 3),
    # What means nothing
    ([(IMAGE, {}), step(gelu=1, destination=Destination.SCORE)], 2),
    ([(IMAGE, {}), step(gelu=1, destination=Destination.RESIDUAL)], 2),
    ([(IMAGE, {}), step(gelu=1, destination=Destination.LOGIT)], 2),
    ([(IMAGE, {}), step(prologue=Prologue.EXP)], 2),
    ([(IMAGE, {}), step(prologue=Prologue.NORM)], 2),
    ([(IMAGE, {}), step(class_attention=1)], 2),
    ([(IMAGE, {}), step(scale_source=ScaleSource.ROW)], 2),
    ([(IMAGE, {}), step(statistics=1)], 2), ([(IMAGE, {}), step(package=1)], 2),
    ([(IMAGE, {}), step(accumulate=1)], 2),
], ids=str)
def test_wrong_programs(body, index):
    assert refused(*body, *([] if body[-1][0] == Opcode.END else [END])) == index


@pytest.mark.parametrize(("loop", "index"), [(1, None), (2, None), (3, 3), (4, 4)])
def test_where_a_loop_begins(loop, index):
    body = [(LOAD, {}), (IMAGE, {}), step(), (Opcode.TABLE, {"count": 1}), END]
    assert refused(*body, loop=loop) == index


def test_the_next_round_needs_an_image_of_its_own():
    body = [(IMAGE, {}), (LOAD, {}), step(), END]
    assert refused(*body, loop=2) is None
    assert refused(*body, loop=2, rounds=2) == 3


def test_a_core_without_a_selector():
    config = replace(CONFIG, pruning=False)
    assert refused((IMAGE, {}), step(), END, config=config) is None
    for wrong in (select(), (PRUNE, {}), step(destination=Destination.SELECTOR)):
        assert refused((IMAGE, {}), wrong, END, config=config) == 2


def test_instructions_that_are_none():
    assert refused((IMAGE, {}), (Opcode.BEGIN, {}), END) == 2
    table = {"table": isa.Table.LIST, "first": CONFIG.list_depth - 1}
    assert refused((Opcode.TABLE, table | {"count": 1}), (IMAGE, {}), END, loop=2) is None
    assert refused((Opcode.TABLE, table | {"count": 2}), (IMAGE, {}), END, loop=2) == 1
