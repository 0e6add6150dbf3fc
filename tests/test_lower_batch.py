# SPDX-License-Identifier: BSD-2-Clause
"""Tests of batches: golden.lower and golden.interpreter with several images in a round."""

import re
from dataclasses import replace

import numpy as np
import pytest
from networks import NETWORKS, Network, noise
from pruned_networks import pruned_network
from test_lower import LateMachine

from golden.integer import Stages, run
from golden.interpreter import Execution, ProgramError, _Machine, execute_run
from golden.lower import check_sizes, lower
from golden.program import PassKind, Program, expected_rows, expected_words, tokens_of
from golden.pruning import PruningConfig
from rtl.config import CONFIGS, ConfigError, named
from rtl.isa import LoadKind, Opcode, Rows

#: Every array, and room for four images.
_CONFIGS = [replace(config, images=4, max_rows=4 * config.max_tokens) if name != "zcu102" else
            config for name, config in CONFIGS.items()]

#: Network, package, what each selector keeps, from which block on; images.
_CASES = [
    ("tiny_test", "each", (5, 2), 1, 2), ("tiny_test", "merged", (5, 2), 2, 3),
    ("tiny_test", "each", (9, 4), 1, 4), ("tiny_test", "merged", (9, 9), 1, 2),
    ("tiny_test", "merged", (0, 0), 2, 4), ("tiny_test", "each", (1, 0), 1, 3),
    ("small_test", "merged", (20, 9), 2, 2), ("small_test", "each", (30, 11), 1, 3),
    ("head16", "merged", (12, 7, 3), 1, 4), ("heads16", "each", (3, 1), 1, 4),
    ("head48", "merged", (7, 2), 3, 3), ("head64", "each", (40, 11), 1, 2),
    ("head32", "merged", (11, 4), 1, 4),
]


def batched(name: str, package: str, counts: tuple[int, ...], first: int) -> Network:
    return pruned_network(name, "topk", package, tuple(range(first, first + len(counts))), counts)


def answers(net: Network, count: int, last_block: str = "all") -> tuple[list, list]:
    """Return frames, and what the integer twin makes of them."""
    frames = [noise(net.qvit.model, 20 + i) for i in range(count)]
    return frames, [run(net.qvit, frame, last_block=last_block) for frame in frames]


def check(program: Program, result: Execution, expected: list[tuple[np.ndarray, int, Stages]],
          first_row: list[int]) -> None:
    """Compare all that a round does with what the integer twin has of its images."""
    stages = [named_stages for _, _, named_stages in expected]
    left = {tokens_of(program, one) for one in stages}
    assert len(left) == 1
    tokens = left.pop()
    passes = program.passes_for(tokens)
    assert len(passes) == len(result.words)
    for info, got, rows in zip(passes, result.words, result.rows, strict=True):
        words, mask = expected_words(program, stages, info)
        assert got.shape == words.shape == (info.column_tiles, info.rows, program.config.columns)
        assert not ((got != words) & mask[:, None]).any(), f"{info.stage} of pass {info.index}"
        for (stage, values), (name, found) in zip(
                expected_rows(program, stages, info).items(), rows.items(), strict=True):
            assert stage.endswith(f".{name}") and np.array_equal(values, found), stage
    for image, (logits, top1, one) in enumerate(expected):
        output = result.outputs[image]
        assert np.array_equal(output.logits, logits)
        assert (output.top1, output.tokens) == (top1, tokens[-1])
        for s, got in enumerate([x for x in result.selections if x.image == image]):
            for name in ("keep", "score", "weight", "share", "attention"):
                assert np.array_equal(getattr(got, name), one[f"selector{s}.{name}"]), name
            assert np.array_equal(got.rows - first_row[image], one[f"selector{s}.rows"])


@pytest.mark.parametrize("case", range(len(_CASES)),
                         ids=lambda case: "-".join(map(str, _CASES[case])))
def test_every_stage_of_every_image(case: int) -> None:
    """Two rounds, on a third of the configurations, another third for the next case."""
    name, package, counts, first, batch = _CASES[case]
    net = batched(name, package, counts, first)
    frames, expected = answers(net, 2 * batch)
    assert len({tuple(logits) for logits, _, _ in expected}) == len(frames)
    count = 0
    for config in _CONFIGS[case % 3::3]:
        try:
            program = lower(net.qvit, config, batch=batch)
        except ConfigError:
            continue
        machine = (LateMachine if case % 2 else _Machine)(
            program.image, config, [frame.tobytes() for frame in frames], case)
        for number, result in enumerate(machine.run()):
            images = range(number * batch, (number + 1) * batch)
            check(program, result, [expected[i] for i in images],
                  [program.first_row(i) for i in images])
        count += 1
    assert count >= 1


@pytest.mark.parametrize("name", ["tiny_test", "small_test"])
def test_rows_of_the_class_token_in_the_last_block(name: str) -> None:
    """One of each image, in a pass; ``small_test`` has two such rows, and two passes."""
    net = batched(name, "each", (7, 5), 1)
    frames, expected = answers(net, 3, "cls")
    config = _CONFIGS[2]
    program = lower(net.qvit, config, last_block="cls", batch=3)
    (result,) = _Machine(program.image, config, [frame.tobytes() for frame in frames], 1).run()
    check(program, result, expected, [program.first_row(i) for i in range(3)])
    special = net.qvit.model.special_tokens
    for kind in (PassKind.Q, PassKind.PROJECTION, PassKind.MLP1, PassKind.MLP2):
        last = [(i.row_first, i.rows) for i in program.passes_for(tokens_of(
            program, expected[0][2])) if i.kind == kind][-special:]
        assert last == [(row, 3) for row in range(special)]


def order(program: Program) -> list[str]:
    """Return what is done with which image, passes of the same kind once."""
    labels = iter(program.labels)
    names: list[str] = []
    for index, f in enumerate(program.instructions):
        if index == program.instructions[0].loop:
            names.append("loop")
        if f.opcode == Opcode.IMAGE:
            names.append(f"image {f.image} at {f.first_row}")
        elif f.opcode == Opcode.LOAD:
            kind = LoadKind(f.kind).name.lower()
            names.append(f"{'ahead ' * f.ahead}{kind}"
                         f" {f.image if f.kind == LoadKind.FRAME else f.first}")
        elif f.opcode == Opcode.SELECT:
            names.append(f"select {f.segment} as {f.image}")
        elif f.opcode == Opcode.PRUNE:
            names.append("prune")
        elif f.opcode == Opcode.PASS:
            label = next(labels)
            assert f.of_segment == (label.image is not None and "prune" in names)
            assert not f.of_segment or f.segment == label.image
            if label.kind in (PassKind.PATCH, PassKind.V, PassKind.ATTENTION, PassKind.MLP1,
                              PassKind.PACKAGE, PassKind.HEAD):
                image = "" if label.image is None else f" {label.image}"
                if names[-1] != f"{label.kind}{image}":
                    names.append(f"{label.kind}{image}")
    return names


def test_order() -> None:
    net = batched("tiny_test", "merged", (5, 2), 2)
    alone = ["v {0}", "{1}", "attention {0}", "mlp1 {0}", "v {0}", "{2}", "attention {0}",
             "mlp1 {0}", "select 0 as {0}"]
    expected = ["frame 0", "loop", "image 0 at 0", "residual 0", "patch 0"]
    expected += [part.format(0, "frame 1", "residual 10") for part in alone]
    expected += ["image 1 at 10", "patch 1"]
    expected += [part.format(1, "ahead frame 0", "") for part in alone if part != "{2}"]
    together = ["prune", "package 0", "package 1", "v", "attention 0", "attention 1", "mlp1"]
    expected += [*together, "select 0 as 0", "select 1 as 1", *together, "head"]
    program = lower(net.qvit, _CONFIGS[1], batch=2)
    assert order(program) == expected
    assert program.batch == 2 and program.instructions[0].row_step == 0
    assert not any(f.alternate for f in program.instructions
                   if f.opcode in (Opcode.IMAGE, Opcode.LOAD))
    heads = [f for f in program.instructions if f.opcode == Opcode.PASS][-1]
    assert (heads.rows_from, heads.destination_stride) == (Rows.EACH, _CONFIGS[1].class_tiles)


def test_a_selector_before_block_1_leaves_no_time_to_load_rows() -> None:
    names = order(lower(batched("tiny_test", "each", (5,), 1).qvit, _CONFIGS[1], batch=3))
    assert [name for name in names if name.startswith(("image", "residual"))] == [
        "image 0 at 0", "residual 0", "image 1 at 10", "residual 10", "image 2 at 20",
        "residual 20"]


_BATCH = PruningConfig(selector="topk", blocks=(1,), counts=(8,))


@pytest.mark.parametrize(("sizes", "pruning", "batch", "message"), [
    ({}, _BATCH, 5, "the batch is 5, must be between 1 and 4"),
    ({}, _BATCH, 0, "the batch is 0, must be between 1 and 4"),
    ({}, None, 2, "a batch of 2 images has selector none, must have topk"),
    ({}, PruningConfig(blocks=(1,)), 2, "a batch of 2 images has selector threshold, must have"),
    ({"images": 2}, _BATCH, 3,
     "needs 3 sets of logits, 1 more than images of configuration small, 2"),
    ({"max_tokens": 18, "max_rows": 22}, replace(_BATCH, counts=(9,)), 2,
     "needs 24 rows in a pass behind the first selector, 2 more than max_rows of configuration"),
    ({"max_tokens": 18, "max_rows": 22}, replace(_BATCH, counts=(3,)), 2,
     "needs 26 rows that a selector drops, 4 more than max_rows of configuration small, 22"),
    ({"max_tokens": 18, "max_width": 48}, _BATCH, 2,
     "needs 72 words of residual, 36 more than residual_depth of configuration small, 36"),
])
def test_batches_that_do_not_fit(sizes: dict[str, int], pruning: PruningConfig | None, batch: int,
                                 message: str) -> None:
    config = replace(named("small"), **{"images": 4, "max_rows": 512} | sizes)
    with pytest.raises(ConfigError, match=re.escape(message)):
        check_sizes(NETWORKS["head16"], config, pruning, batch)


def test_a_batch_whose_hidden_layer_does_not_fit() -> None:
    """Tokens that are dropped make room for others in all buffers, but not for that many."""
    config = replace(named("small"), images=4, max_rows=512, max_tokens=66, max_hidden=208)
    pruning = replace(_BATCH, counts=(40,))
    check_sizes(NETWORKS["head64"], config, pruning, 2)
    with pytest.raises(ConfigError, match="a batch of 3 images of head64 needs 903 words of"
                                          " activations, 111 more than act_depth of configuration"):
        check_sizes(NETWORKS["head64"], config, pruning, 3)


def test_frames_come_in_whole_rounds() -> None:
    net = batched("tiny_test", "each", (5,), 1)
    program = lower(net.qvit, _CONFIGS[1], batch=2)
    with pytest.raises(ProgramError, match="is for 2 images in a round, must be for 1 to 4 that"):
        execute_run(program.image, _CONFIGS[1], [net.frame] * 3)
