# SPDX-License-Identifier: BSD-2-Clause
"""Whole networks on the emitted Verilog of every configuration: every stage bit for bit."""

import random
from dataclasses import replace

import pytest

from golden.images import calibration_frames
from golden.model import LAST_BLOCKS, FloatViT, ModelConfig, ModelError, model_named
from golden.program import head_slot
from golden.quantize import patch_bytes, quantize
from golden.synthetic import synthetic
from rtl.config import CONFIGS, Config, named
from sim.build import simulator
from sim.report import Report
from sim.simulate import Bus, simulate
from sim.workload import Workload

#: The memory at its best, at its worst, and in between with random stalls on every channel.
BUSES = {"fast": Bus(bytes_per_cycle=64, latency=20), "slow": Bus(bytes_per_cycle=3, latency=400),
         "stalls": Bus(bytes_per_cycle=24, latency=60, stalls=1)}


#: Networks for configurations that do not hold that for all others.
SMALL = {"nano": model_named("tiny_test"), "tiny": model_named("tiny_test"),
         "ulx3s": ModelConfig(name="patches", image_size=36, patch=12, width=64, heads=2, depth=2,
                              hidden=80, classes=10)}


def random_model(config: Config, seed: int) -> ModelConfig:
    """Return a network of any shape that ``config`` can hold, but not a long one."""
    generator = random.Random(seed)
    while True:
        patch, grid = generator.choice((4, 8, 16)), generator.randrange(1, 6)
        heads, size = generator.randrange(1, 5), generator.choice((16, 32, 48, 64))
        try:
            model = ModelConfig(
                name=f"random{seed}", image_size=patch * grid, patch=patch, width=heads * size,
                heads=heads, depth=generator.randrange(1, 3),
                hidden=16 * generator.randrange(1, 20), classes=generator.randrange(2, 40),
                distilled=generator.random() < 0.5)
        except ModelError:
            continue
        if (model.tokens <= config.max_tokens and patch_bytes(model) <= config.max_patch
                and heads * head_slot(model) <= config.max_width
                and model.hidden <= config.max_hidden and model.classes <= config.max_classes):
            return model


def run(model: ModelConfig, config: Config, bus: Bus, last_block: str = "all") -> Report:
    frames = calibration_frames(model.image_size)
    qvit = quantize(FloatViT(model, synthetic(model, 3)), frames, weights="synthetic")
    work = Workload(qvit, config, frames[0], last_block=last_block)
    return simulate(work, simulator(config), bus)


def check(report: Report) -> None:
    comparison = report.comparison
    assert comparison.exact, f"{comparison.first_mismatch} {comparison.problems}"
    assert sum(report.status.stalls.values()) == report.status.cycles
    assert report.status.stalls["busy"] == report.workload.array_cycles
    assert report.status.bytes_read == report.bytes_read
    assert report.status.bytes_written == report.bytes_written
    assert report.status.tokens == report.workload.qvit.model.tokens
    assert report.status.cycles <= report.cycles


@pytest.mark.parametrize("bus", BUSES)
@pytest.mark.parametrize("config", CONFIGS)
def test_small_network_on_every_configuration(config: str, bus: str) -> None:
    model = SMALL.get(config, model_named("small_test"))
    check(run(model, named(config), BUSES[bus]))


@pytest.mark.parametrize("bus", BUSES)
def test_small_network_on_primitives(bus: str) -> None:
    """The array as DSP48E2, with our model of it."""
    check(run(model_named("tiny_test"), replace(named("tiny"), multiplier="dsp48e2"), BUSES[bus]))


@pytest.mark.parametrize("seed", range(12))
def test_random_network_on_tiny(seed: int) -> None:
    config = named("tiny")
    check(run(random_model(config, seed), config, list(BUSES.values())[seed % 3]))


@pytest.mark.parametrize("seed", range(18, 22))
def test_random_network_on_nano(seed: int) -> None:
    config = named("nano")
    check(run(random_model(config, seed), config, list(BUSES.values())[seed % 3]))


@pytest.mark.parametrize("array", ["8x16", "16x8", "8x64", "64x8"])
def test_arrays_of_eight_rows_or_columns(array: str) -> None:
    check(run(model_named("tiny_test"), named(f"tiny-{array}"), BUSES["stalls"]))


@pytest.mark.parametrize("seed", range(12, 18))
def test_random_network_on_small(seed: int) -> None:
    config = named("small")
    check(run(random_model(config, seed), config, list(BUSES.values())[seed % 3]))


@pytest.mark.parametrize("grid", [1, 2, 3, 4])
@pytest.mark.parametrize("distilled", [False, True])
def test_few_tokens(grid: int, distilled: bool) -> None:
    """Fewer rows than the distance of read-modify-write: every tile is padded to it."""
    model = ModelConfig(name="few", image_size=8 * grid, patch=8, width=32, heads=2, depth=2,
                        hidden=48, classes=10, distilled=distilled)
    check(run(model, named("tiny"), BUSES["fast"]))


@pytest.mark.parametrize("bus", BUSES)
@pytest.mark.parametrize("config", ["tiny", "small"])
def test_rows_of_the_class_token_in_the_last_block(config: str, bus: str) -> None:
    """The same answer; small_test has a distillation token, too."""
    model = model_named(f"{config}_test")
    whole, few = (run(model, named(config), BUSES[bus], last) for last in LAST_BLOCKS)
    check(few)
    assert (few.workload.expected[0] == whole.workload.expected[0]).all()
    assert few.status.top_class == whole.status.top_class
    assert few.macs < whole.macs == model.macs()
    # With as few tokens as in tiny_test the weights take all the time.
    assert bus == "stalls" or few.cycles <= whole.cycles
    assert few.status.stalls["busy"] < whole.status.stalls["busy"]


@pytest.mark.parametrize("seed", range(18, 24))
def test_random_network_with_few_rows_in_the_last_block(seed: int) -> None:
    config = named("tiny")
    check(run(random_model(config, seed), config, list(BUSES.values())[seed % 3], "cls"))


@pytest.mark.parametrize("limit", ["max_tokens", "max_width", "max_hidden", "max_patch",
                                   "max_classes"])
def test_network_at_a_limit(limit: str) -> None:
    config = named("tiny")
    sizes = {"image_size": 16, "patch": 8, "width": 32, "heads": 2, "hidden": 48, "classes": 10}
    sizes |= {"max_tokens": {"image_size": 80, "patch": 8}, "max_width": {"width": 64},
              "max_hidden": {"hidden": 256}, "max_patch": {"patch": 16, "image_size": 32},
              "max_classes": {"classes": 16}}[limit]
    model = ModelConfig(name="limit", depth=1, **sizes)
    used = {"max_tokens": model.tokens, "max_width": model.width, "max_hidden": model.hidden,
            "max_patch": patch_bytes(model), "max_classes": model.classes}[limit]
    # Tokens are a square and one or two more.
    assert getattr(config, limit) - used == (11 if limit == "max_tokens" else 0)
    check(run(model, config, BUSES["fast"]))


def test_deit_tiny_on_zcu102() -> None:
    """Dense DeiT-T on 64 x 64, 64 bytes a cycle, with and without stalls."""
    config = named("zcu102")
    work = Workload.named("deit_tiny", config)
    report = simulate(work, simulator(config), Bus())
    check(report)
    assert report.cycles <= 400_000
    assert report.utilization >= 0.76
    stalled = simulate(work, simulator(config), Bus(stalls=1))
    check(stalled)
    assert stalled.cycles > report.cycles


@pytest.mark.slow
@pytest.mark.parametrize("model", ["deit_tiny_distilled", "deit_small", "deit_base"])
def test_deit_on_zcu102(model: str) -> None:
    config = named("zcu102")
    check(simulate(Workload.named(model, config), simulator(config), Bus()))
