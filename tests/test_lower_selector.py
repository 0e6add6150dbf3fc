# SPDX-License-Identifier: BSD-2-Clause
"""Tests of golden.lower_selector and golden.interpreter_selector, as tests/test_lower.py."""

import re
from dataclasses import replace

import numpy as np
import pytest
from networks import NETWORKS, Network, network
from pruned_networks import pruned_network
from test_lower import compare

from golden.functions import gelu_int
from golden.integer import run
from golden.interpreter import Execution, ProgramError, execute
from golden.lower import check_sizes, lower
from golden.model import model_named
from golden.program import (
    PassKind,
    Program,
    expected_rows,
    expected_words,
    sealed,
    tokens_of,
)
from golden.pruning import PruningConfig
from platforms.hollow import hollow
from rtl.config import BLOCK, CONFIGS, ConfigError, named
from rtl.isa import (
    NO_BLOCK,
    Destination,
    ListEntry,
    Opcode,
    PolyRow,
    Prologue,
    Rows,
    ScaleSource,
    SelectorKind,
    Source,
    Stationary,
    Table,
    select_layout,
)

#: Arrays of every proportion.
_SKEWED = [replace(named("zcu104"), name=f"{rows}x{columns}", rows=rows, columns=columns, ports=1,
                   port_bits=32, max_hidden=1024)
           for rows, columns in ((16, 64), (64, 16), (128, 32), (32, 128))]
_ALL = [*_SKEWED, *CONFIGS.values()]

#: Network, package, and for each selector what it keeps: a part, nothing, everything, one.
_TOPK = [
    ("tiny_test", "each", (5, 2)), ("tiny_test", "merged", (5, 2)),
    ("tiny_test", "each", (9, 9)), ("tiny_test", "merged", (0, 0)),
    ("tiny_test", "each", (9, 1)), ("tiny_test", "merged", (1, 1)),
    ("tiny_test", "each", (1, 0)), ("small_test", "merged", (20, 9)),
    ("small_test", "each", (36, 0)), ("head16", "merged", (8, 8)), ("heads16", "each", (3, 1)),
    ("head48", "merged", (7, 2)), ("head64", "merged", (40, 11)),
]
#: The same, with levels of the classifiers.
_THRESHOLD = [
    ("tiny_test", "each", (0, 0)), ("tiny_test", "merged", (0, 0.5)),
    ("tiny_test", "each", (9, 9)), ("tiny_test", "merged", (-9, -9)), ("head16", "each", (2, -9)),
    ("heads16", "merged", (0.3, 0.3)), ("head32", "merged", (0, 0)), ("head48", "each", (0, 0)),
    ("head64", "merged", (-0.5, -0.5)),
]


def selectors(name: str, selector: str, package: str, what: tuple[float, ...]) -> Network:
    return pruned_network(name, selector, package, tuple(range(1, len(what) + 1)), what)


def check_selections(net: Network, result: Execution) -> None:
    """Compare what the interpreter says of the selectors with the stages, and with itself."""
    pruning, stages, special = net.qvit.pruning, net.stages, net.qvit.model.special_tokens
    assert pruning is not None and len(result.selections) == len(pruning.blocks)
    dropped_by = np.full(len(result.dropped_by), 15)
    for s, (block, got) in enumerate(zip(pruning.blocks, result.selections, strict=True)):
        names = ["rows", "keep", "score", "weight", "share"]
        names += ["attention"] if pruning.selector == "topk" else ["weighted", "importance"]
        for name in names:
            expected = stages[f"selector{s}.{name}"]
            assert np.array_equal(getattr(got, name), expected), f"{name} of selector {s}"
        assert [got.tokens] == stages[f"selector{s}.tokens"].tolist()
        before = stages[f"block{block - 1}.residual2"]
        at = {row: i for i, row in enumerate(got.rows.tolist())}
        assert np.array_equal(before[[at[row] for row in got.dropped.tolist()]],
                              stages[f"selector{s}.dropped"])
        patches = got.rows[special:special + len(got.keep)]
        kept = patches[got.keep == 1]
        assert np.array_equal(kept - special, stages[f"selector{s}.kept"])
        dropped_by[patches[got.keep == 0]] = s
    assert np.array_equal(result.dropped_by, dropped_by)


def check(net: Network, case: int) -> None:
    """Compare everything on a third of the configurations, another third for the next case."""
    configs = _ALL[case % 3::3]
    run = 0
    for config in configs:
        try:
            program = lower(net.qvit, config)
        except ConfigError:
            continue
        check_selections(net, compare(net, program))
        run += 1
    assert run >= 2


@pytest.mark.parametrize("case", range(len(_TOPK)),
                         ids=lambda case: "-".join(map(str, _TOPK[case])))
def test_topk(case: int) -> None:
    name, package, what = _TOPK[case]
    net = selectors(name, "topk", package, what)
    check(net, case)
    for s, count in enumerate(what):
        assert net.stages[f"selector{s}.kept"].size == min(
            count, net.stages[f"selector{s}.keep"].size)


@pytest.mark.parametrize("case", range(len(_THRESHOLD)),
                         ids=lambda case: "-".join(map(str, _THRESHOLD[case])))
def test_threshold(case: int) -> None:
    name, package, what = _THRESHOLD[case]
    check(selectors(name, "threshold", package, what), case)


@pytest.mark.parametrize(("name", "selector", "what"), [
    ("tiny_test", "topk", (5, 2)), ("small_test", "topk", (20, 0)), ("tiny_test", "topk", (9, 9)),
    ("head32", "threshold", (0, 0)), ("head48", "threshold", (-9, -9))])
def test_rows_of_the_class_token_after_a_selector(name: str, selector: str,
                                                  what: tuple[float, ...]) -> None:
    """A selector stands before the last block, of which one or two rows are computed."""
    net = selectors(name, selector, "merged", what)
    few = replace(net, stages=run(net.qvit, net.frame, last_block="cls")[2])
    assert len(few.stages["head.norm.m"]) == net.qvit.model.special_tokens
    for config in ("small", "zcu102"):
        program = lower(net.qvit, named(config), last_block="cls")
        check_selections(few, compare(few, program))


def test_the_classifiers_of_these_tests_disagree() -> None:
    kept = set()
    for name, package, what in _THRESHOLD:
        net = selectors(name, "threshold", package, what)
        for s in range(len(what)):
            keep = net.stages[f"selector{s}.keep"]
            kept.add("none" if not keep.any() else "all" if keep.all() else "some")
    assert kept == {"none", "some", "all"}


def test_columns_of_no_head_are_zero() -> None:
    """The sigmoid of zero is not: with other functions, too."""
    for functions in ("exact", "heatvit"):
        net = pruned_network("head16", "threshold", "each", (1,), (0,), functions)
        assert gelu_int(net.qvit.classifiers[0].sigmoid, [-(1 << 17), 0]).tolist() == [0, 64]
        program = lower(net.qvit, named("small"))
        result = check_classes(net, program)
        check_selections(net, result)


def check_classes(net: Network, program: Program) -> Execution:
    """Compare everything, and see that the classes are those of three heads alone."""
    result = compare(net, program)
    index = [label.kind for label in program.labels].index(PassKind.CLASSES)
    word = result.words[index]
    assert not word[:, :, 3:16].any() and not word[:, :, 19:].any()
    assert np.array_equal(word[0][:, [0, 1, 2, 16, 17, 18]], net.stages["selector0.classes"])
    return result


def test_three_selectors_a_block_apart() -> None:
    for package in ("each", "merged"):
        net = pruned_network("head16", "topk", package, (1, 3, 4), (12, 7, 3))
        assert [int(net.stages[f"selector{s}.tokens"][0]) for s in range(3)] == (
            [15, 11, 8] if package == "each" else [15, 10, 6])
        program = lower(net.qvit, named("zcu102"))
        check_selections(net, compare(net, program))


@pytest.mark.parametrize(("selector", "what"), [("topk", (20, 9)), ("threshold", (0, 0))])
def test_every_element_of_every_stage_is_expected(selector: str, what: tuple[float, ...]) -> None:
    """And only the residual more than once: it is read again for the LayerNorm of heads."""
    net = selectors("head32" if selector == "threshold" else "small_test", selector, "each", what)
    program = lower(net.qvit, named("zcu104"))
    # No tap of a pass shows these.
    hidden = (".rows", ".tokens", ".score", ".keep", ".kept", ".weight", ".share", ".attention",
              ".weighted", ".importance")
    stages = {name: value for name, value in net.stages.items()
              if not (name.startswith("selector") and name.endswith(hidden))}
    numbers = {name: np.arange(1, v.size + 1).reshape(v.shape) for name, v in stages.items()}
    seen = {name: np.zeros(v.size + 1, int) for name, v in stages.items()}
    for info in program.passes_for(tokens_of(program, net.stages)):
        words, mask = expected_words(program, numbers, info)
        if info.kind != PassKind.HEAD_NORM:
            np.add.at(seen[info.stage], words[np.broadcast_to(mask[:, None], words.shape)], 1)
        for name, values in expected_rows(program, numbers, info).items():
            np.add.at(seen[name], values, 1)
    for name, count in seen.items():
        assert (count[1:] == 1).all(), name


def kinds(program: Program) -> list[str]:
    """Return the instructions of the second block, selector included, by name."""
    labels = iter(program.labels)
    names = []
    for f in program.instructions:
        if f.opcode == Opcode.PASS:
            label = next(labels)
            names.append(f"{label.kind}{'' if label.head is None else label.head}")
        elif f.opcode == Opcode.TABLE:
            if names[-1:] != [f"table{f.under_way}"]:
                names.append(f"table{f.under_way}")
        elif f.opcode in (Opcode.SELECT, Opcode.PRUNE):
            names.append(Opcode(f.opcode).name)
    return names[names.index("projection"):len(names) - names[::-1].index("q")]


def test_order_of_a_topk_selector() -> None:
    program = lower(pruned_network("tiny_test", "topk", "merged", (1,), (5,)).qvit, named("small"))
    assert kinds(program) == ["projection", "mlp1", "SELECT", "mlp2", "table1", "PRUNE", "package",
                              "package_norm", "q"]
    select = next(f for f in program.instructions if f.opcode == Opcode.SELECT)
    assert (select.kind, select.merged, select.special) == (SelectorKind.TOPK, 1, 1)
    assert (select.keep, select.under_way) == (5, 2)


def test_order_of_a_threshold_selector() -> None:
    program = lower(pruned_network("tiny_test", "threshold", "each", (1,), (0,)).qvit,
                    named("small"))
    assert kinds(program) == [
        "projection", "mlp1", "mlp2", "table1", "head_norm0", "head_norm1", "local0",
        "global0", "local1", "global1", "importance1", "mean", "score10", "score11", "score2",
        "table0", "SELECT", "classes", "PRUNE", "package", "package_norm", "table2", "q"]
    select = next(f for f in program.instructions if f.opcode == Opcode.SELECT)
    assert (select.kind, select.merged) == (SelectorKind.THRESHOLD, 0)
    assert (select.keep, select.under_way) == (0, 0)


def test_tables_of_a_threshold_selector() -> None:
    net = pruned_network("tiny_test", "threshold", "each", (1,), (0,))
    program = lower(net.qvit, named("small"))
    classifier = net.qvit.classifiers[0]
    tables, rows = [], {}
    for f in program.instructions:
        if f.opcode == Opcode.TABLE and f.table == Table.LANE and f.first < 40:
            rows |= {f.first + k: f.rows[k] for k in range(f.count)}
            if f.first + f.count == 34:
                tables.append([rows[k] for k in range(34)])
    expected = [net.qvit.blocks[0].gelu, classifier.gelu, classifier.sigmoid,
                net.qvit.blocks[1].gelu]
    assert tables == [[PolyRow.const(dict(zip(("c0", "c1", "c2"), row, strict=True))).as_bits()
                       for row in table.tolist()] for table in expected]


def test_only_the_block_before_a_selector_gives_scores() -> None:
    net = pruned_network("head16", "topk", "each", (2,), (5,))
    program = lower(net.qvit, named("small"))
    seen = []
    for info in program.passes_for([18, 17]):
        f = program.instructions[info.instruction]
        if f.class_attention:
            assert info.kind == PassKind.ATTENTION and f.first_head == (info.head == 0)
            assert f.score_s == 42 - net.qvit.score_frac
            seen.append((info.stage, info.head))
        else:
            assert f.first_head == f.score_s == 0
    assert seen == [("block1.attention", head) for head in range(3)]


def test_fields_of_the_package() -> None:
    net = pruned_network("small_test", "topk", "each", (1,), (5,))
    program = lower(net.qvit, named("zcu104"))  # 96 channels, parts of 16
    infos = program.passes_for([38, 8])
    package, norm, query = ([i for i in infos if i.kind == kind][-1] for kind in (
        PassKind.PACKAGE, PassKind.PACKAGE_NORM, PassKind.Q))
    f = program.instructions[package.instruction]
    assert (package.rows, package.row_first, package.tokens, package.column_tiles) == (31, 0, 8, 6)
    assert (f.rows_from, f.stationary, f.destination) == (Rows.DROPPED, Stationary.NONE,
                                                          Destination.RESIDUAL)
    assert (f.package, f.destination_mask, f.scale_source) == (1, 0, ScaleSource.CONSTANT)
    assert (f.statistics, f.row_dependency, f.source) == (0, 0, Source.ACT)
    words, mask = expected_words(program, net.stages, package)
    assert mask.sum(axis=1).tolist() == [16] * 6 and mask[1, 16:].all()
    assert np.array_equal(words[3][:, 16:], net.stages["selector0.dropped"][:, 48:64])

    f = program.instructions[norm.instruction]
    assert (norm.rows, norm.row_first, norm.column_tiles) == (1, 7, 3)
    assert (f.rows_from, f.row_dependency, f.statistics) == (Rows.LAST, 1, 1)
    assert (f.epsilon, f.norm_slot) == (net.qvit.blocks[1].norm1.epsilon, 0)
    f = program.instructions[query.instruction]
    assert (f.row_dependency, query.rows) == (1, 8)


def test_fields_of_the_classifier() -> None:
    net = pruned_network("head32", "threshold", "each", (1,), (0,))  # 5 heads of 32, 17 tokens
    program = lower(net.qvit, named("zcu104"))  # 32 columns
    infos = {(i.kind, i.head): i for i in program.passes_for(tokens_of(program, net.stages))}
    fields = {at: program.instructions[i.instruction] for at, i in infos.items()}
    importance = fields[PassKind.IMPORTANCE, None]
    scale = net.qvit.classifiers[0].importance_scale
    assert (importance.prologue, importance.gelu) == (Prologue.SCALE, 1)
    assert (importance.exp_m, importance.exp_s) == (scale.m, scale.s)
    norm = net.qvit.classifiers[0].norm
    for head in range(5):
        f, slot = fields[PassKind.HEAD_NORM, head], 1 + head % 2
        assert (f.norm_slot, f.channels, f.column_tiles) == (slot, 32, 1)
        assert (f.operand_base, f.destination_mask) == (head, 3)
        assert (f.scale_m, f.scale_s, f.epsilon) == (norm.scale.m, norm.scale.s, norm.epsilon)
        local, rest = fields[PassKind.LOCAL, head], fields[PassKind.GLOBAL, head]
        assert local.norm_slot == rest.norm_slot == slot
        assert (local.prologue, local.destination) == (Prologue.NORM, Destination.ACT)
        assert (local.operand_base, local.destination_mask) == (head // 2, 1 << head % 2)
        assert (rest.destination, rest.operand_base) == (Destination.VALUE, 0)
        assert (rest.destination_base, rest.destination_mask) == ((head + 1) // 2,
                                                                  1 << (head + 1) % 2)
    mean = fields[PassKind.MEAN, None]
    assert (mean.rows_from, mean.row_dependency, mean.destination_stride) == (Rows.LAST, 1, 0)
    assert (mean.exp_m, mean.exp_s, mean.zero_rows, mean.k_from_tokens) == (0, 1, 1, 1)
    assert (mean.scale_m, mean.scale_s) == (1 << 16, 33)
    assert (mean.operand_base, mean.operand_stride, mean.column_tiles) == (0, 3, 3)
    classes = fields[PassKind.CLASSES, None]
    assert (classes.destination, classes.gelu, classes.column_tiles) == (Destination.SELECTOR, 1, 1)


def test_lists_of_the_classifier() -> None:
    net = pruned_network("head32", "threshold", "each", (1,), (0,))
    program = lower(net.qvit, named("zcu104"))  # words of four blocks, all enter at once
    rows: dict[int, int] = {}
    for f in program.instructions:
        if f.opcode == Opcode.TABLE and f.table == Table.LIST:
            rows |= {f.first + k: f.rows[k] for k in range(f.count)}
    broadcast = 0
    for info in program.passes_for(tokens_of(program, net.stages)):
        f = program.instructions[info.instruction]
        tiles = [[(e.index * 4 + bank, e.broadcast) for k in range(info.k_tiles)
                  for bank in range(4)
                  if (bits := rows[f.list_base + t * f.list_stride + k] >> (8 * bank)
                      & 0xFF) != NO_BLOCK
                  for e in [ListEntry.from_bits(bits)]]
                 for t in range(info.column_tiles)]
        if info.kind == PassKind.SCORE1:
            # Two words of means, then the local block: both in one K tile.
            assert info.head is not None and info.k_tiles == 1
            assert sorted(tiles[0]) == [(info.head + 1, 1), (8 + info.head, 0)]
        elif info.kind == PassKind.SCORE2:
            assert [[block for block, _ in tile] for tile in tiles] == [[0, 1], [2, 3], [4]]
        elif info.kind in (PassKind.HEAD_NORM, PassKind.PACKAGE, PassKind.PACKAGE_NORM):
            assert not any(tiles) and info.k_tiles == 1
        broadcast += sum(b for tile in tiles for _, b in tile)
    assert broadcast == 5


@pytest.mark.parametrize(("name", "config", "entries"), [
    ("deit_base_distilled", "zcu102", 128), ("deit_small", "kv260", 256),
    ("deit_tiny", "zcu104", 128)])
def test_block_lists_of_the_largest_networks(name: str, config: str, entries: int) -> None:
    """They are those of the sizes alone: neither blocks nor selectors add to them."""
    found = []
    for depth in (2, 3):
        model = replace(model_named(name), depth=depth)
        qvit = hollow(model, PruningConfig(blocks=tuple(range(1, depth))))
        program = lower(qvit, named(config))
        found.append(max(f.first + f.count for f in program.instructions
                         if f.opcode == Opcode.TABLE and f.table == Table.LIST))
    assert found[0] == found[1] <= entries <= named(config).list_depth


@pytest.mark.parametrize(("model", "limits", "pruning", "message"), [
    ("tiny_test", {"pruning": False}, {"blocks": (1,)},
     "tiny_test needs 1 selectors, configuration small has 0: it is without pruning"),
    ("tiny_test", {}, {"blocks": tuple(range(1, 17))},
     "tiny_test needs 16 selectors, 1 more than a program may have, 15"),
    ("heads16", {"columns": 16, "ports": 1}, {"blocks": (1,)},
     "needs 22 columns for two classes of each head, 6 more than columns of configuration small"),
    ("small_test", {}, {"blocks": (1,)},
     "has heads of 48 channels, must have heads of 16, 32 or 64 with 32 columns"),
    ("head16", {"max_hidden": 80, "max_width": 48, "max_tokens": 18}, {"blocks": (1,)},
     "needs 110 words of activations, 38 more than act_depth of configuration small, 72"),
    ("head16", {"max_width": 48, "max_tokens": 18, "columns": 16, "ports": 1}, {"blocks": (1,)},
     "needs 128 words of values, 32 more than value_depth of configuration small, 96"),
])
def test_selectors_that_do_not_fit(model: str, limits: dict[str, int], pruning: dict[str, object],
                                   message: str) -> None:
    config = replace(named("small"), **limits)
    with pytest.raises(ConfigError, match=re.escape(message)):
        check_sizes(NETWORKS[model], config, PruningConfig(**pruning))


def test_topk_needs_none_of_that() -> None:
    config = replace(named("small"), columns=16, ports=1)
    check_sizes(NETWORKS["heads16"], config, PruningConfig(selector="topk", blocks=(1,),
                                                           counts=(2,)))


def test_numbers_of_tokens() -> None:
    program = lower(pruned_network("tiny_test", "topk", "each", (1,), (5,)).qvit, named("small"))
    assert program.selectors == 1
    assert [i.rows for i in program.passes_for([10, 7]) if i.kind == PassKind.Q] == [10, 7]
    for tokens in ([10], [9, 7], [10, 7, 7]):
        with pytest.raises(ValueError, match="must be 10 and one for each of 1 selectors"):
            program.passes_for(tokens)


def test_interpreter_refuses_broken_selectors() -> None:
    net = pruned_network("tiny_test", "topk", "each", (1,), (5,))
    program = lower(net.qvit, named("small"))
    at = {Opcode(f.opcode): i for i, f in enumerate(program.instructions)}
    package = next(i.instruction for i in program.passes_for([10, 7]) if i.kind == PassKind.PACKAGE)

    def copied(to: int, source: int) -> bytes:
        image = bytearray(program.image)
        image[64 * to:64 * to + 64] = program.image[64 * source:64 * source + 64]
        return bytes(image)

    def with_special(count: int) -> bytes:
        place, low = 64 * at[Opcode.SELECT], select_layout["special"].offset
        word = int.from_bytes(program.image[place:place + 64], "little")
        word = word & ~(3 << low) | count << low
        return program.image[:place] + word.to_bytes(64, "little") + program.image[place + 64:]

    mlp2 = at[Opcode.SELECT] + 1
    for image, message in (
        (with_special(0), "SELECT 0 is for 0 special tokens, must be for at least 1 and fewer"),
        (copied(at[Opcode.SELECT], at[Opcode.PRUNE]), "PRUNE has no SELECT before it"),
        (copied(mlp2, at[Opcode.SELECT]), "SELECT 1 has no PRUNE before it"),
        (copied(5 + at[Opcode.IMAGE], package),
         "over dropped rows, there is no selector before it"),
    ):
        with pytest.raises(ProgramError, match=message):
            execute(sealed(image), program.config, net.frame)
    without = replace(program.config, pruning=False)
    with pytest.raises(ProgramError, match=r"is SELECT, configuration small has no selector"):
        execute(program.image, without, net.frame)


def test_dense_programs_need_no_selector() -> None:
    net = network("tiny_test")
    config = replace(named("small"), pruning=False)
    program = lower(net.qvit, config)
    assert program.selectors == 0 and program.pruning is None
    compare(net, program)
    assert (execute(program.image, config, net.frame).dropped_by == 15).all()
    assert BLOCK * config.column_blocks == config.columns
