# SPDX-License-Identifier: BSD-2-Clause
"""The cycle model: how near it is to measured cycles, and what they depend on."""

import time
from dataclasses import replace

import pytest

from golden.cycles import CycleModel
from golden.lower import lower
from golden.model import model_named
from golden.program import Program
from golden.pruning import PruningConfig, tokens_left
from platforms.estimate import cycle_model
from platforms.hollow import hollow
from rtl.config import named
from rtl.isa import INSTRUCTION_BYTES, Opcode

_DENSE = PruningConfig(selector="none")
_TOPK = PruningConfig(selector="topk", blocks=(1, 2, 3), counts=(60, 36, 18))
_MERGED = replace(_TOPK, package="merged")
_HALVES = replace(_MERGED, counts=(50, 25, 12))


def _model(name: str, config: str, pruning: PruningConfig = _DENSE, bytes_per_cycle: float = 64,
           latency: int = 100, last_block: str = "all", batch: int = 1) -> CycleModel:
    return cycle_model(model_named(name), named(config), pruning, bytes_per_cycle=bytes_per_cycle,
                       latency=latency, last_block=last_block, batch=batch)


@pytest.mark.parametrize(("model", "config", "pruning", "options", "first", "steady"), [
    ("tiny_test", "tiny", _DENSE, {}, 23_443, 21_104),
    ("tiny_test", "tiny", _DENSE, {"bytes_per_cycle": 2}, 91_627, 84_456),
    ("scenes", "tiny", _DENSE, {"bytes_per_cycle": 4}, 163_802, 150_227),
    ("scenes", "tiny", _DENSE, {"latency": 400}, 195_391, 172_928),
    ("scenes", "tiny", _DENSE, {"last_block": "cls"}, 141_509, 134_533),
    ("scenes", "tiny", _MERGED, {}, 83_411, 76_345),
    ("scenes", "tiny", _MERGED, {"bytes_per_cycle": 4, "latency": 20}, 113_174, 99_809),
    ("scenes", "tiny-8x8", _MERGED, {}, 291_575, 283_855),
    ("scenes", "small", _DENSE, {"bytes_per_cycle": 12}, 46_304, 39_541),
    ("scenes", "small", _HALVES, {}, 26_134, 20_527),
    ("scenes", "small", _HALVES, {"bytes_per_cycle": 8, "batch": 2}, 72_595, 32_358),
])
def test_near_what_was_measured(model: str, config: str, pruning: PruningConfig, options: dict,
                                first: int, steady: int) -> None:
    """Cycles of ``python -m sim.cycle_points``."""
    estimate, tokens = _model(model, config, pruning, **options), tokens_left(
        model_named(model), pruning)
    assert estimate.ends(tokens, 3)[0] == pytest.approx(first, rel=6e-3)
    assert estimate.steady(tokens, 3) == pytest.approx(steady, rel=6e-3)


def test_fewer_tokens_take_fewer_cycles() -> None:
    model = _model("scenes", "tiny", _TOPK)
    cycles = [model.cycles((101, n, n, n)) for n in range(2, 102)]
    # A token less may take some cycles more: it is the last one that waits for the package.
    assert all(b > a - 200 for a, b in zip(cycles, cycles[1:], strict=False))
    assert cycles[-1] > 1.5 * cycles[0]


@pytest.mark.parametrize(("better", "worse"), [
    ({}, {"latency": 200}), ({}, {"bytes_per_cycle": 4}),
    ({"latency": 200}, {"latency": 2000}), ({"bytes_per_cycle": 4}, {"bytes_per_cycle": 1})])
def test_worse_memory_takes_more_cycles(better: dict, worse: dict) -> None:
    assert _model("tiny_test", "tiny", **better).cycles((10,)) < _model(
        "tiny_test", "tiny", **worse).cycles((10,))


def test_an_image_takes_milliseconds() -> None:
    model = _model("deit_tiny", "zcu102", PruningConfig())
    cycles = model.cycles((197, 110, 103, 78))
    times = []
    for _ in range(10):
        start = time.process_time()
        assert model.cycles((197, 110, 103, 78)) == cycles
        times.append(time.process_time() - start)
    # What else runs on this machine can only make it slower.
    assert min(times) < 0.05


@pytest.mark.parametrize("tokens", [(101,), (100, 62, 39, 22), (101, 62, 39, 22, 22)])
def test_other_numbers_of_tokens_are_refused(tokens: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="must be 101 and one for each of 3 selectors"):
        _model("scenes", "tiny", _TOPK).cycles(tokens)


@pytest.mark.parametrize("bus", [{"bytes_per_cycle": 0.5}, {"bytes_per_cycle": 5000},
                                 {"latency": 0}, {"latency": 1_000_000}])
def test_memory_that_is_none_is_refused(bus: dict) -> None:
    with pytest.raises(ValueError, match="must be between 1 and"):
        _model("tiny_test", "tiny", **bus)


def test_the_middle_of_a_run_does_not_depend_on_its_length() -> None:
    model = _model("scenes", "tiny", _TOPK)
    tokens = (101, 62, 39, 22)
    assert model.steady(tokens, 4) == model.steady(tokens, 6) == model.steady(tokens, 9)
    # The next frame is loaded meanwhile, and nothing is set up again.
    assert 0.9 * model.cycles(tokens) < model.steady(tokens) < model.cycles(tokens)


def test_the_next_frame_takes_time_where_memory_is_slow() -> None:
    """Where weights take all of it, what else is read comes on top."""
    model = _model("tiny_test", "tiny", bytes_per_cycle=1)
    assert model.steady((10,)) * 1 >= len(model.program.image) - 8192


def _with_opcode(index: int, opcode: Opcode) -> Program:
    """Return a small program with another opcode in one place; negative ones are from the end."""
    program = lower(hollow(model_named("tiny_test")), named("tiny"))
    image = bytearray(program.image)
    image[INSTRUCTION_BYTES * (index % len(program.instructions))] = opcode.value
    return replace(program, image=bytes(image))


def test_instructions_that_the_model_does_not_know_are_refused() -> None:
    with pytest.raises(ValueError, match="instruction 3 is BEGIN, must be one that the cycle"):
        CycleModel(_with_opcode(3, Opcode.BEGIN)).cycles((10,))


def test_programs_without_end_are_refused() -> None:
    with pytest.raises(ValueError, match="instructions is IMAGE, must be END"):
        CycleModel(_with_opcode(-1, Opcode.IMAGE)).cycles((10,))
