# SPDX-License-Identifier: BSD-2-Clause
"""Tests of golden.lower, golden.assembler and golden.interpreter.

The interpreter executes nothing but the bytes of the memory image, on buffers full of rubbish; that
it gives every stage of the integer twin proves the program.
"""

import re
from dataclasses import replace

import numpy as np
import pytest
from amaranth.lib import data
from networks import NETWORKS, Network, network, noise

from golden.assembler import block_list, instruction
from golden.fixed import Int
from golden.integer import Stages, run
from golden.interpreter import Execution, ProgramError, _Machine, execute
from golden.lower import lower
from golden.model import LAST_BLOCKS, ModelError
from golden.program import (
    PassInfo,
    PassKind,
    Program,
    expected_rows,
    expected_words,
    head_slot,
    sealed,
    tokens_of,
)
from golden.quantize import patch_bytes
from rtl.config import BLOCK, CONFIGS, Config, ConfigError, named
from rtl.isa import (
    MAGIC,
    NO_BLOCK,
    ColumnScale,
    Destination,
    ListEntry,
    LoadKind,
    Opcode,
    PolyRow,
    Prologue,
    Rows,
    ScaleSource,
    Source,
    Stationary,
    Table,
    pass_layout,
)

#: Arrays of every proportion, banks of several column tiles and of several row tiles.
_SKEWED = [replace(named("zcu104"), name=f"{rows}x{columns}", rows=rows, columns=columns, ports=1,
                   port_bits=32, max_hidden=1024)
           for rows, columns in ((16, 64), (64, 16), (128, 32), (32, 128), (8, 64), (64, 8))]

_CASES = [(name, config) for name, model in NETWORKS.items() for config in CONFIGS.values()
          if model.width <= config.max_width and model.hidden <= config.max_hidden
          and patch_bytes(model) <= config.max_patch]
_CASES += [(name, config) for name in ("small_test", "head16", "heads16", "head32")
           for config in _SKEWED]


def dense_passes(program: Program) -> tuple[PassInfo, ...]:
    return program.passes_for([program.tokens])


def compare(net: Network, program: Program) -> Execution:
    """Compare all that the passes write with the stages; return all that the program did."""
    result = execute(program.image, program.config, net.frame, seed=7)
    check_stages(program, result, net.logits, net.top1, net.stages)
    return result


def check_stages(program: Program, result: Execution, logits: Int, top1: int,
                 stages: Stages) -> None:
    passes = program.passes_for(tokens_of(program, stages))
    assert len(result.words) == len(passes)
    for index, info in enumerate(passes):
        assert info.index == index
        words, mask = expected_words(program, stages, info)
        got = result.words[index]
        assert got.shape == words.shape == (info.column_tiles, info.rows, program.config.columns)
        bad = np.argwhere((got != words) & mask[:, None])
        assert not len(bad), (f"{info.stage} pass {index} at {bad[0].tolist()}: expected"
                              f" {words[tuple(bad[0])]}, got {got[tuple(bad[0])]}")
        rows = expected_rows(program, stages, info)
        assert len(rows) == len(result.rows[index])
        for (stage, values), (name, found) in zip(rows.items(), result.rows[index].items(),
                                                  strict=True):
            assert stage.endswith(f".{name}")
            assert np.array_equal(values, found), f"{stage} of pass {index}"
    assert np.array_equal(result.logits, logits) and result.top1 == top1
    assert result.outputs[0].tokens == tokens_of(program, stages)[-1]


class LateMachine(_Machine):
    """Loads as late as the hardware may: not before the next LOAD, or what streams patches."""

    pending: data.Const | None = None

    def load(self, fields: data.Const) -> None:
        self.finish()
        # It is for this round, or the next one, when it is read.
        self.pending, self.of_round = fields, self.round

    def run_pass(self, f: data.Const) -> None:
        if f.source == Source.PATCH:
            self.finish()
        super().run_pass(f)

    def finish(self) -> None:
        if self.pending is not None:
            now, self.round = self.round, self.of_round
            super().load(self.pending)
            self.pending, self.round = None, now


@pytest.mark.parametrize("images", [1, 2])
@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("name", ["tiny_test", "small_test"])
def test_consecutive_images(name: str, late: bool, images: int) -> None:
    """In turns in the residual, or each in the place of the last, whenever loads end."""
    net = network(name)
    model = net.qvit.model
    program = lower(net.qvit, replace(named("zcu104"), images=images, max_tokens=model.tokens))
    frames = [noise(model, seed) for seed in (3, 11, 12, 13)]
    machine = (LateMachine if late else _Machine)(
        program.image, program.config, [frame.tobytes() for frame in frames], 5)
    results = machine.run()
    assert [program.first_row(i) for i in range(4)] == [0, model.tokens * (images - 1)] * 2
    for frame, result in zip(frames, results, strict=True):
        check_stages(program, result, *run(net.qvit, frame))
    assert len({tuple(r.logits) for r in results}) == len(frames)


def order_of_loads(program: Program) -> list[str]:
    """Return LOADs, the loop, and the passes that they are beside, by name."""
    labels, names = iter(program.labels), []
    for index, f in enumerate(program.instructions):
        if index == program.instructions[0].loop:
            names.append("loop")
        if f.opcode == Opcode.IMAGE:
            names.append("image")
        elif f.opcode == Opcode.LOAD:
            assert f.alternate == (f.ahead and f.kind == LoadKind.RESIDUAL)
            assert f.under_way == (3 if f.ahead else 0)
            names.append(f"{'ahead ' * f.ahead}{LoadKind(f.kind).name}")
        elif f.opcode == Opcode.PASS:
            label = next(labels)
            if label.kind in (PassKind.PATCH, PassKind.V, PassKind.MLP1):
                names.append(label.stage)
    return names


def test_loads_and_the_loop() -> None:
    """Two images of 38 tokens of 3 words take turns if their rows have addresses and words."""
    net = network("small_test")
    for sizes, alternate in (({}, True), ({"max_tokens": 76, "images": 1}, True),
                             ({"max_tokens": 75, "images": 1}, False),
                             ({"max_tokens": 57}, True), ({"max_tokens": 56}, False)):
        program = lower(net.qvit, replace(named("small"), max_width=128, **sizes))
        begin = program.instructions[0]
        assert (begin.images, begin.row_step) == (1, 38 if alternate else 0)
        image = next(f for f in program.instructions if f.opcode == Opcode.IMAGE)
        assert (image.image, image.first_row, image.alternate) == (0, 0, alternate)
        first, ahead = (["RESIDUAL"], ["ahead RESIDUAL"]) if alternate else ([], [])
        assert order_of_loads(program) == [
            *first, "FRAME", "loop", "image", *([] if alternate else ["RESIDUAL"]),
            "embed.residual", "block0.v", "ahead FRAME", "block0.hidden", "block1.v", *ahead,
            "block1.hidden"]
    assert order_of_loads(lower(network("head16").qvit, named("small"))) == [
        "RESIDUAL", "FRAME", "loop", "image", "embed.residual", "block0.v", "ahead FRAME",
        "block0.hidden", "ahead RESIDUAL"]


@pytest.mark.parametrize(("name", "config"), _CASES, ids=lambda v: getattr(v, "name", v))
def test_the_bytes_of_the_image_give_every_stage(name: str, config: Config) -> None:
    net = network(name)
    compare(net, lower(net.qvit, config))


def last_block(net: Network) -> Network:
    """Return the network with what the twin makes of the special tokens' rows of its last block."""
    return replace(net, stages=run(net.qvit, net.frame, last_block="cls")[2])


@pytest.mark.parametrize(("name", "config"), [
    ("small_test", "zcu104"), ("tiny_test", "tiny"), ("head16", "kv260"), ("heads16", "small"),
    ("head48", "tiny"), ("head64", "zcu102"), ("two_tokens", "small")])
def test_rows_of_the_class_token_in_the_last_block(name: str, config: str) -> None:
    """One row, or two of distilled networks, give the logits of all rows."""
    net = last_block(network(name))
    program = lower(net.qvit, named(config), last_block="cls")
    compare(net, program)
    model, dense = net.qvit.model, lower(net.qvit, named(config))
    last = f"block{model.depth - 1}."
    for info, whole in zip(dense_passes(program), dense_passes(dense), strict=True):
        few = info.stage.startswith(last) and info.kind not in (PassKind.K, PassKind.V)
        assert (info.row_first, info.rows) == (
            (0, model.special_tokens) if few else (whole.row_first, whole.rows))
        assert replace(info, rows=whole.rows) == whole
    assert program.streams == dense.streams


def test_other_rows_of_the_last_block_are_refused() -> None:
    with pytest.raises(ModelError, match="^the last block is 'none', must be one of all, cls$"):
        lower(network("tiny_test").qvit, named("tiny"), last_block="none")


@pytest.mark.parametrize("last", LAST_BLOCKS)
def test_every_element_of_every_stage_is_expected_once(last: str) -> None:
    net = network("small_test") if last == "all" else last_block(network("small_test"))
    program = lower(net.qvit, named("zcu104"), last_block=last)
    # Number the elements, so that what is expected tells where it comes from.
    numbers = {stage: np.arange(1, v.size + 1).reshape(v.shape) for stage, v in net.stages.items()}
    seen = {stage: np.zeros(v.size + 1, int) for stage, v in net.stages.items()}
    for info in dense_passes(program):
        words, mask = expected_words(program, numbers, info)
        np.add.at(seen[info.stage], words[np.broadcast_to(mask[:, None], words.shape)], 1)
        for stage, values in expected_rows(program, numbers, info).items():
            np.add.at(seen[stage], values, 1)
    for stage, count in seen.items():
        assert (count[1:] == 1).all(), stage


def test_lanes_that_are_compared() -> None:
    net = network("small_test")  # two heads of 48 in slots of 64, width 96
    program = lower(net.qvit, named("kv260"))  # 64 columns
    at = {(p.kind, p.head): p for p in reversed(dense_passes(program))}

    def lanes(kind: PassKind, head: int | None = None) -> list[int]:
        words, mask = expected_words(program, net.stages, at[kind, head])
        # Defined lanes hold the stage, then zeros.
        assert not words[:, :, ~mask.all(axis=0)].any() or mask.shape[0] > 1
        return mask.sum(axis=1).tolist()

    assert lanes(PassKind.PATCH) == [64, 32]        # nothing is defined beyond the width
    assert lanes(PassKind.Q) == [64, 64]            # the end of a slot is zero
    assert lanes(PassKind.SCORE, 0) == [38]         # tokens
    assert lanes(PassKind.ATTENTION, 1) == [48]     # blocks of the head
    assert lanes(PassKind.MLP1) == [64] * 6
    assert lanes(PassKind.HEAD) == [64]             # 20 classes and zeros
    words, _ = expected_words(program, net.stages, at[PassKind.K, None])
    assert np.array_equal(words[1, :, :48], net.stages["block0.k"][:, 48:])
    assert not words[:, :, 48:].any()


def test_order_of_the_passes() -> None:
    program = lower(network("head32").qvit, named("small"))
    kinds = [f"{p.kind}{'' if p.head is None else p.head}" for p in dense_passes(program)]
    assert kinds == ["patch", "q", "k", "v", "score0", "score1", "attention0", "score2",
                     "attention1", "score3", "attention2", "score4", "attention3", "attention4",
                     "projection", "mlp1", "mlp2", "head"]
    distilled = dense_passes(lower(network("small_test").qvit, named("small")))
    assert [(p.stage, p.row_first, p.rows) for p in distilled[-2:]] == [
        ("logits.cls", 0, 1), ("logits", 1, 1)]
    assert [p.norm for p in distilled if p.norm] == [
        "block0.norm1", "block0.norm2", "block1.norm1", "block1.norm2", "head.norm"]


@pytest.mark.parametrize("name", ["small_test", "heads16"])
def test_dependencies_name_the_last_writer(name: str) -> None:
    """By buffers and addresses, not by names."""
    program = lower(network(name).qvit, named("zcu102"))
    writers: dict[object, int] = {}
    waited: set[int] = set()
    for index, info in enumerate(dense_passes(program)):
        f = program.instructions[info.instruction]
        source: object = (f.source, f.source_slot) if f.source == Source.SCORE else f.source
        needs = {"row": writers.get(source, -1) if f.source != Source.PATCH else -1}
        if f.stationary != Stationary.WEIGHT:
            needs["operand"] = writers[f.stationary]
        for what, writer in needs.items():
            back = f.row_dependency if what == "row" else f.operand_dependency
            if back:
                assert index - back == writer, f"pass {index}, {what}"
            else:
                assert writer == -1 or (writer in waited and index - writer > 15)
            waited.add(writer)
        destination = Destination(f.destination)
        written: dict[Destination, object] = {
            Destination.ACT: Source.ACT, Destination.RESIDUAL: Source.RESIDUAL,
            Destination.KEY: Stationary.KEY, Destination.VALUE: Stationary.VALUE,
            Destination.SCORE: (Source.SCORE, f.destination_slot)}
        # Q and attention output share a buffer: rows of Q are complete when scores begin.
        if destination == Destination.ACT and info.kind == PassKind.ATTENTION:
            writers["attention"] = index
        else:
            writers[written.get(destination)] = index
        if info.kind == PassKind.ATTENTION and info.head == network(name).qvit.model.heads - 1:
            writers[Source.ACT] = index


def test_fields_of_the_passes() -> None:
    net = network("small_test")
    program = lower(net.qvit, named("kv260"))
    model, block = net.qvit.model, net.qvit.blocks[0]
    fields = {(p.kind, p.head): program.instructions[p.instruction]
              for p in reversed(dense_passes(program))}
    for f in fields.values():
        # The hardware refuses shifts of zero, wherever they are.
        assert f.opcode == Opcode.PASS and f.scale_s and f.exp_s and f.mean_s
    patch = fields[PassKind.PATCH, None]
    assert (patch.source, patch.zero_rows, patch.statistics) == (Source.PATCH, 2, 1)
    assert (patch.channels, patch.epsilon) == (96, block.norm1.epsilon)
    assert (patch.mean_m, patch.mean_s) == (block.norm1.mean.m, block.norm1.mean.s)
    assert (patch.scale_m, patch.scale_s) == (block.norm1.scale.m, block.norm1.scale.s)
    q = fields[PassKind.Q, None]
    assert (q.prologue, q.scale_source) == (Prologue.NORM, ScaleSource.COLUMN)
    assert (q.column_tiles, q.k_tiles, q.row_dependency) == (2, 3, 1)
    score = fields[PassKind.SCORE, 1]
    assert (score.stationary, score.scale_source) == (Stationary.KEY, ScaleSource.CONSTANT)
    assert (score.columns_from_tokens, score.k_tiles, score.destination_slot) == (1, 2, 1)
    assert (score.scale_m, score.scale_s) == (block.score.m, block.score.s)
    attention = fields[PassKind.ATTENTION, 1]
    assert (attention.prologue, attention.scale_source) == (Prologue.EXP, ScaleSource.ROW)
    assert (attention.k_from_tokens, attention.source_slot) == (1, 1)
    assert (attention.exp_m, attention.exp_s) == (block.exp.m, block.exp.s)
    assert (attention.operand_base, attention.destination_mask) == (1, 0b0111)
    assert attention.destination_base == model.tokens * 2 + 1
    mlp1 = fields[PassKind.MLP1, None]
    assert mlp1.gelu == 1 and mlp1.destination_base == 0
    heads = [program.instructions[p.instruction] for p in dense_passes(program)[-2:]]
    assert [(h.accumulate, h.row_dependency, h.rows_from) for h in heads] == [
        (0, 1, Rows.COUNT), (1, 2, Rows.COUNT)]


def test_gelu_tables_come_before_the_queries() -> None:
    net = network("small_test")
    program = lower(net.qvit, named("small"))
    queries = [p.instruction for p in dense_passes(program) if p.kind == PassKind.Q]
    for i, at in enumerate(queries):
        rows: dict[int, int] = {}
        for f in program.instructions[at - 5:at]:
            assert f.opcode == Opcode.TABLE and f.table == Table.LANE
            rows |= {f.first + k: f.rows[k] for k in range(f.count)}
        assert sorted(rows) == list(range(34))
        for row, word in rows.items():
            c0, c1, c2 = net.qvit.blocks[i].gelu[row].tolist()
            assert word == PolyRow.const({"c0": c0, "c1": c1, "c2": c2}).as_bits()
    others = [f for i, f in enumerate(program.instructions)
              if f.opcode == Opcode.TABLE and not any(at - 5 <= i < at for at in queries)]
    assert all(f.table != Table.LANE or f.first >= 40 for f in others)


def test_parts_of_the_image() -> None:
    net = network("small_test")
    model = net.qvit.model
    for config in (named("small"), named("kv260")):
        program = lower(net.qvit, config)
        begin, end = program.instructions[0], program.instructions[-1]
        assert begin.magic == MAGIC and begin.tokens == program.tokens == 38
        assert begin.instructions == len(program.instructions)
        assert end.opcode == Opcode.END and end.classes == 20
        assert begin.weight_offset % 4096 == begin.weight_stride % 4096 == 0
        residual, frame, *ahead = (f for f in program.instructions if f.opcode == Opcode.LOAD)
        assert [(f.kind, f.offset) for f in ahead] == [(LoadKind.FRAME, 0),
                                                       (LoadKind.RESIDUAL, residual.offset)]
        assert residual.kind == LoadKind.RESIDUAL and residual.offset % 64 == 0
        assert residual.offset >= 64 * len(program.instructions)
        assert begin.weight_offset >= residual.offset + 38 * 96 * 2
        assert np.array_equal(program.initial, net.qvit.initial)
        assert frame.kind == LoadKind.FRAME and frame.offset == 0 and frame.first == 2
        assert (frame.row_bytes, frame.count, frame.lines, frame.patch_rows) == (48, 6, 6, 16)
        assert program.frame_bytes == frame.row_bytes * 6 * 6 * 16 == net.frame.size

        assert len(program.streams) == config.ports
        share = config.columns // config.ports
        rows = np.concatenate([np.frombuffer(s, np.uint8).reshape(-1, share)
                               for s in program.streams], axis=1)
        # The stream starts with the patch embedding: parameters, then weights, of column tile 0.
        for c in range(config.columns):
            word = ColumnScale.from_bits(int.from_bytes(rows[:8, c].tobytes(), "little"))
            patch = net.qvit.patch
            assert (word.bias, word.m, word.s) == (patch.bias[c], patch.m[c], patch.s[c])
            assert word.pad0 == word.pad1 == 0
        weight = rows[8:8 + patch_bytes(model), :config.columns].view(np.int8).T
        assert np.array_equal(weight, net.qvit.patch.weight[:config.columns])


def test_block_lists() -> None:
    config = named("zcu104")  # four blocks enter at once
    assert block_list(range(10), config) == [(0, 0, 0, 0), (1, 1, 1, 1), (2, 2, None, None)]
    assert block_list([1, 2, 5], config) == [(None, 0, 0, None), (None, 1, None, None)]
    net = network("heads16")  # eleven heads of one block
    program = lower(net.qvit, config)
    rows: dict[int, int] = {}
    for f in program.instructions:
        if f.opcode == Opcode.TABLE and f.table == Table.LIST:
            rows |= {f.first + k: f.rows[k] for k in range(f.count)}
    entries = [[rows[i] >> (8 * b) & 0xFF for b in range(4)] for i in range(len(rows))]
    heads = []
    for info in dense_passes(program):
        f = program.instructions[info.instruction]
        assert f.list_stride == 0
        used = [ListEntry.from_bits(e).index * 4 + bank
                for entry in entries[f.list_base:f.list_base + info.k_tiles]
                for bank, e in enumerate(entry) if e != NO_BLOCK]
        if info.kind == PassKind.SCORE:
            assert used == [info.head]
            heads.append(f.list_base)
        elif info.kind in (PassKind.Q, PassKind.MLP1, PassKind.PROJECTION):
            assert used == list(range(11))
    # Every list is stored once: the heads, the patches, 176 and 48 channels.
    assert len(set(heads)) == 11
    assert len(rows) == 11 + patch_bytes(net.qvit.model) // 64 + 3 + 1


def test_slots_of_heads() -> None:
    slots = {name: head_slot(NETWORKS[name]) for name in ("head16", "head32", "head48", "head64")}
    assert slots == {"head16": 16, "head32": 32, "head48": 64, "head64": 64}
    # Padding a head does not cost K tiles: three blocks of four are streamed.
    program = lower(network("head48").qvit, named("tiny"))
    tiles = {p.kind: p.k_tiles for p in dense_passes(program)}
    assert tiles[PassKind.SCORE] == tiles[PassKind.PROJECTION] == 48 // BLOCK


@pytest.mark.parametrize(("limits", "message"), [
    ({"max_tokens": 37}, "needs 38 tokens, 1 more than max_tokens of configuration small, 37"),
    ({"max_width": 80}, "needs 96 residual channels, 16 more than max_width of configuration"),
    ({"max_width": 112}, "needs 128 channels for 2 heads of 64, 16 more than max_width"),
    ({"max_hidden": 368}, "needs 384 hidden channels, 16 more than max_hidden"),
    ({"max_patch": 752}, "needs 768 bytes of a patch, 16 more than max_patch"),
    ({"max_classes": 19}, "needs 20 classes, 1 more than max_classes"),
])
def test_configuration_too_small(limits: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        lower(network("small_test").qvit, replace(named("small"), **limits))


def test_model_just_fits() -> None:
    config = replace(named("small"), max_tokens=38, max_width=128, max_hidden=384, max_classes=20)
    compare(network("small_test"), lower(network("small_test").qvit, config))


def test_block_lists_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Config, "list_depth", 20)
    with pytest.raises(ConfigError, match=r"the program needs \d+ block list entries, \d+ more than"
                                          " list_depth of configuration small, 20"):
        lower(network("small_test").qvit, named("small"))


def test_field_too_small() -> None:
    with pytest.raises(ConfigError, match="k_tiles is 256, an instruction holds at most 255"):
        instruction(pass_layout, Opcode.PASS, k_tiles=256)


def test_interpreter_refuses_broken_programs() -> None:
    net = network("two_tokens")
    program = lower(net.qvit, named("tiny"))
    config = program.config

    last = 64 * (len(program.instructions) - 1)
    beats = program.instructions[0].weight_beats
    row = beats // (len(program.streams[0]) // config.columns)
    for at, size, value, message in (
        (4, 1, 0, "does not start with BEGIN and its magic number"),
        (0, 1, Opcode.END.value, "does not start with BEGIN"),
        (1, 1, 9, "version 9 of the instruction set, must be 4"),
        (64, 1, 0, "instruction 1 has no known opcode"),
        (28, 1, 4, "is for 4 images in a round, must be for 1 to 4 that divide the 1 frames"),
        (14, 2, 0, r"the loop begins at instruction 0 of \d+, must be behind BEGIN"),
        (last, 1, Opcode.BEGIN.value, "is BEGIN"),
        (64 * 5, 1, Opcode.BEGIN.value, r"instruction 5 of \d+ is BEGIN"),
        (64 * 5, 1, Opcode.END.value, r"instruction 5 of \d+ is END"),
        (24, 4, beats - row, "uses more weights than there are"),
    ):
        image = bytearray(program.image)
        image[at:at + size] = value.to_bytes(size, "little")
        with pytest.raises(ProgramError, match=message):
            execute(sealed(bytes(image)), config, net.frame)
    damaged = program.image[:last + 2] + b"\xff" + program.image[last + 3:]
    with pytest.raises(ProgramError, match=r"the checksum of the program is 0x\w+, must be 0"):
        execute(damaged, config, net.frame)
    with pytest.raises(ProgramError, match=r"BEGIN says \d+ instructions, must say 1 to 3, as"):
        execute(program.image[:200], config, net.frame)
    without = bytearray(program.image)
    at = next(i for i, f in enumerate(program.instructions) if f.opcode == Opcode.IMAGE)
    without[64 * at:64 * at + 64] = program.image[64:128]
    with pytest.raises(ProgramError, match=r"is PASS, there is no IMAGE before it"):
        execute(sealed(bytes(without)), config, net.frame)
    # A row that is left over.
    longer = bytearray(program.image + bytes(config.columns))
    longer[24:28] = (beats + row).to_bytes(4, "little")
    with pytest.raises(ProgramError, match=r"used \d+ rows of weights, there are \d+"):
        execute(sealed(bytes(longer)), config, net.frame)
