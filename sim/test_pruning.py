# SPDX-License-Identifier: BSD-2-Clause
"""Token selectors on the emitted Verilog: what they keep, and every stage, bit for bit."""

import random
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch

from golden.images import calibration_frames
from golden.model import FloatViT, ModelConfig, model_named
from golden.pruning import PruningConfig
from golden.quantize import patch_bytes, quantize
from golden.synthetic import synthetic
from golden.synthetic_selector import composed, synthetic_selectors
from rtl.config import CONFIGS, Config, named
from sim.build import simulator
from sim.report import Report
from sim.simulate import Bus, simulate, simulate_images
from sim.workload import Workload

#: The memory at its best, and with random stalls on every channel.
BUSES = {"fast": Bus(bytes_per_cycle=64, latency=20),
         "stalls": Bus(bytes_per_cycle=24, latency=60, stalls=1)}
#: A network for each small configuration; classifiers take no heads of 48 channels.
NETWORKS = {"nano": model_named("tiny_test"), "tiny": model_named("tiny_test"),
            "small": replace(model_named("small_test"), name="small", heads=3)}


def pruned(model: ModelConfig, config: Config, pruning: PruningConfig,
           state: dict[str, torch.Tensor] | None = None) -> Workload:
    """Return a network with selectors, and the first calibration frame."""
    frames = calibration_frames(model.image_size)
    twin = FloatViT(model, synthetic(model, 3) if state is None else state)
    selectors = (synthetic_selectors(twin, pruning.blocks, 3)
                 if pruning.selector == "threshold" else [])
    qvit = quantize(twin, frames, weights="synthetic", pruning=pruning, selectors=selectors)
    return Workload(qvit, config, frames[0])


def pictures(model: ModelConfig) -> list[np.ndarray]:
    """Return an empty picture, one that is half full, and a full one."""
    return [composed(model.image_size, cover, 7) for cover in (0, 0.5, 1)]


def check(report: Report) -> None:
    comparison, status, work = report.comparison, report.status, report.workload
    assert comparison.exact, f"{comparison.first_mismatch} {comparison.problems}"
    assert report.host_accesses == 0
    assert sum(status.stalls.values()) == status.cycles
    assert status.stalls["busy"] == work.array_cycles
    assert (status.bytes_read, status.bytes_written) == (report.bytes_read, report.bytes_written)
    stages = work.expected[2]
    for i, step in enumerate(report.steps):
        assert step.kept == tuple(stages[f"selector{i}.kept"])
        assert step.tokens_out == stages[f"selector{i}.tokens"][0]
    assert status.tokens == report.steps[-1].tokens_out


def kept(report: Report) -> list[int]:
    return [len(step.kept) for step in report.steps]


@pytest.mark.parametrize("bus", BUSES)
@pytest.mark.parametrize("package", ["each", "merged"])
@pytest.mark.parametrize("selector", ["topk", "threshold"])
@pytest.mark.parametrize("name", NETWORKS)
def test_selectors(name: str, selector: str, package: str, bus: str) -> None:
    """Three pictures one after another: one program, and nothing of one is left in the next."""
    model, config = NETWORKS[name], named(name)
    pruning = PruningConfig(selector=selector, blocks=(1,), package=package,
                            rates=(0.6,) if selector == "topk" else None)
    work = pruned(model, config, pruning)
    reports = simulate_images([("", work.with_frame(frame)) for frame in pictures(model)],
                              simulator(config), BUSES[bus])
    for report in reports:
        check(report)
    counts = [kept(report)[0] for report in reports]
    if selector == "topk":
        assert len(set(counts)) == 1
    else:
        assert counts[0] < counts[2] and counts == sorted(counts)


@pytest.mark.parametrize("bus", BUSES)
@pytest.mark.parametrize("selector", ["topk", "threshold"])
@pytest.mark.parametrize("name", NETWORKS)
def test_rows_of_the_class_token_in_the_last_block(name: str, selector: str, bus: str) -> None:
    """After a selector before it; ``small`` has two such rows."""
    model, config = NETWORKS[name], named(name)
    pruning = PruningConfig(selector=selector, blocks=(1,), package="merged",
                            rates=(0.6,) if selector == "topk" else None)
    work = replace(pruned(model, config, pruning), last_block="cls")
    for report in simulate_images([("", work.with_frame(frame)) for frame in pictures(model)],
                                  simulator(config), BUSES[bus]):
        check(report)


@pytest.mark.parametrize("selector", ["topk", "threshold"])
@pytest.mark.parametrize("name", sorted(set(CONFIGS) - set(NETWORKS)))
def test_other_configurations(name: str, selector: str) -> None:
    config = named(name)
    model = NETWORKS["small"] if NETWORKS["small"].width <= config.max_width else deep()
    pruning = PruningConfig(selector=selector, blocks=(1,), package="merged",
                            counts=(11,) if selector == "topk" else None)
    check(simulate(pruned(model, config, pruning), simulator(config), BUSES["fast"]))


def deep(*, depth: int = 4, grid: int = 4, **sizes: int | bool) -> ModelConfig:
    return ModelConfig(name="deep", image_size=8 * grid, patch=8, depth=depth, classes=10,
                       **{"width": 32, "heads": 2, "hidden": 48} | sizes)


@pytest.mark.parametrize("package", ["each", "merged"])
@pytest.mark.parametrize("counts", [
    (16, 16, 16), (0, 0, 0), (1, 1, 1), (16, 7, 0), (9, 9, 1)],
    ids=lambda counts: "-".join(map(str, counts)))
def test_counts(counts: tuple[int, ...], package: str) -> None:
    """All kept, none, one, and packages that later ones take in, or not."""
    config = named("tiny")
    pruning = PruningConfig(selector="topk", blocks=(1, 2, 3), counts=counts, package=package)
    model = deep(distilled=package == "merged")
    report = simulate(pruned(model, config, pruning), simulator(config), BUSES["fast"])
    check(report)
    assert kept(report) == list(counts)


@pytest.mark.parametrize("count", [0, 1])
@pytest.mark.parametrize("selector", ["topk", "threshold"])
def test_one_patch(selector: str, count: int) -> None:
    config, model = named("tiny"), deep(grid=1)
    pruning = PruningConfig(selector=selector, blocks=(1, 3),
                            counts=(count, count) if selector == "topk" else None)
    work = pruned(model, config, pruning)
    for frame in (work.frame, np.zeros_like(work.frame), np.full_like(work.frame, 255)):
        check(simulate(work.with_frame(frame), simulator(config), BUSES["fast"]))


@pytest.mark.parametrize("counts", [(5, 2), (0, 0), (15, 15)])
def test_equal_scores(counts: tuple[int, ...]) -> None:
    """Where the class token pays all the same attention the first patches stay."""
    model, config = deep(), named("tiny")
    state = {name: torch.zeros_like(value) if ".attn.qkv." in name else value
             for name, value in synthetic(model, 3).items()}
    pruning = PruningConfig(selector="topk", blocks=(1, 3), counts=counts)
    report = simulate(pruned(model, config, pruning, state), simulator(config), BUSES["fast"])
    check(report)
    assert [step.kept for step in report.steps] == [tuple(range(count)) for count in counts]


@pytest.mark.parametrize("name, grid", [("tiny", 10), ("small", 11)])
@pytest.mark.parametrize("selector", ["topk", "threshold"])
def test_most_tokens(name: str, grid: int, selector: str) -> None:
    config = named(name)
    model = deep(grid=grid, depth=2, distilled=True)
    assert model.tokens <= config.max_tokens < (grid + 1) ** 2 + 2
    pruning = PruningConfig(selector=selector, blocks=(1,),
                            rates=(0.5,) if selector == "topk" else None)
    check(simulate(pruned(model, config, pruning), simulator(config), BUSES["fast"]))


@pytest.mark.parametrize("selector", ["topk", "threshold"])
def test_selector_before_every_block(selector: str) -> None:
    config = named("tiny")
    depth = 6
    blocks = tuple(range(1, depth))
    pruning = PruningConfig(selector=selector, blocks=blocks,
                            counts=(14, 11, 11, 6, 2) if selector == "topk" else None)
    check(simulate(pruned(deep(depth=depth), config, pruning), simulator(config),
                   BUSES["stalls"]))


def random_network(config: Config, seed: int) -> tuple[ModelConfig, PruningConfig]:
    """Return a network of any shape that ``config`` can hold, and selectors for it."""
    generator = random.Random(seed)
    selector = generator.choice(("topk", "threshold"))
    while True:
        patch, grid = generator.choice((4, 8)), generator.randrange(1, 7)
        size, heads = generator.choice((16, 32, 64)), generator.randrange(1, 4)
        depth = generator.randrange(2, 4)
        model = ModelConfig(name=f"random{seed}", image_size=patch * grid, patch=patch,
                            width=heads * size, heads=heads, depth=depth, classes=8,
                            hidden=16 * generator.randrange(1, 10),
                            distilled=generator.random() < 0.5)
        if (model.tokens <= config.max_tokens and patch_bytes(model) <= config.max_patch
                and model.width <= config.max_width and model.hidden <= config.max_hidden):
            break
    blocks = tuple(sorted(generator.sample(range(1, depth), generator.randrange(1, depth))))
    counts: Sequence[int] | None = None
    if selector == "topk":
        counts = tuple(sorted((generator.randrange(grid ** 2 + 1) for _ in blocks), reverse=True))
    return model, PruningConfig(selector=selector, blocks=blocks, counts=counts,
                                package=generator.choice(("each", "merged")))


@pytest.mark.parametrize("seed", range(9))
def test_random_network(seed: int) -> None:
    config = named("tiny" if seed % 3 else "small")
    model, pruning = random_network(config, seed)
    check(simulate(pruned(model, config, pruning), simulator(config),
                   list(BUSES.values())[seed % 2]))


@pytest.mark.slow
@pytest.mark.parametrize("stalls", [0, 1])
@pytest.mark.parametrize("package", ["each", "merged"])
@pytest.mark.parametrize("selector", ["topk", "threshold"])
def test_deit_tiny_on_zcu102(selector: str, package: str, stalls: int) -> None:
    config = named("zcu102")
    pruning = PruningConfig(selector=selector, package=package,
                            rates=(0.7, 0.49, 0.343) if selector == "topk" else None)
    work = Workload.named("deit_tiny", config, pruning=pruning)
    report = simulate(work, simulator(config), Bus(stalls=stalls))
    check(report)
    if not stalls:
        assert report.cycles <= 1.3 * work.ideal_cycles(64)
