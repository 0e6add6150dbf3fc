# SPDX-License-Identifier: BSD-2-Clause
"""Tests of batches: golden.lower and golden.interpreter with several images in a round."""

from dataclasses import replace

import numpy as np
import pytest
from networks import Network, noise
from pruned_networks import pruned_network
from test_lower import LateMachine

from golden.integer import Stages, run
from golden.interpreter import Execution, _Machine
from golden.lower import lower
from golden.program import Program, expected_rows, expected_words, tokens_of
from rtl.config import CONFIGS, ConfigError

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
