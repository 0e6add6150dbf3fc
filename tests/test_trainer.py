# SPDX-License-Identifier: BSD-2-Clause
"""Training: it learns, it is repeatable, it resumes as if nothing had happened, and it shares."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import training
from safetensors.torch import load_file, save_file
from training import Stopped, assert_equal

from golden.checkpoint import load_checkpoint
from golden.integer import run as run_integer
from golden.model import MODELS, FloatViT
from golden.model_file import load_model, stored_pruning
from golden.pruning import PrunedViT
from golden.quantize import quantize
from golden.scenes import SceneError, fixed_set
from golden.train_config import Stage, TrainConfig, TrainError
from golden.train_data import grey_images
from golden.trainable_pruning import TrainablePrunedViT
from golden.trainer import Trainer, World, parameter_groups

pytestmark = pytest.mark.usefixtures("one_thread")

ROOT = Path(__file__).parent.parent
CPU = torch.device("cpu")

#: Two short stages of a network with one block.
CONFIG = TrainConfig(
    model=replace(MODELS["scenes"], depth=1), validation=20, validate_every=2, stages=(
        Stage(name="windows", size=48, steps=4, batch=4, rate=1e-3, warmup=2, last=0.1),
        Stage(name="dense", size=120, steps=3, batch=2, rate=1e-3, smoothing=0.1,
              precision="bfloat16")))


SELECT = replace(
    CONFIG, model=replace(MODELS["scenes"], depth=2), validation=10, stages=(
        Stage(name="dense", size=120, steps=2, batch=2, rate=1e-3),
        Stage(name="threshold", kind="threshold", size=120, steps=3, batch=2, rate=1e-3,
              blocks=(1,), keep=(0.5,)),
        Stage(name="again", kind="threshold", size=120, steps=1, batch=2, rate=0.0, blocks=(1,),
              keep=(0.5,), package="merged"),
        Stage(name="topk", kind="topk", start="dense", size=120, steps=3, batch=2, rate=0.0,
              blocks=(1,), keep=(0.5,), precision="bfloat16")))


def train(folder, config=CONFIG, **arguments):
    return training.train(folder, config, **arguments)


def weights(folder, stage="dense"):
    return load_checkpoint(folder / f"{stage}.safetensors", CONFIG.model)[1]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    return folder, train(folder)


def test_every_step_is_reported(trained):
    folder, reports = trained
    assert [(r.stage.name, r.step) for r in reports] == [
        *(("windows", i) for i in (1, 2, 3, 4)), *(("dense", i) for i in (1, 2, 3))]
    assert [r.accuracy is not None for r in reports] == [0, 1, 0, 1, 0, 1, 1]
    log = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    assert [(line["stage"], line["step"]) for line in log] == [
        ("windows", 2), ("windows", 4), ("dense", 2), ("dense", 3)]
    for line, report in zip(log, [r for r in reports if r.accuracy is not None], strict=True):
        assert line["accuracy"] == report.accuracy and line["loss"] == report.loss
    assert log[0]["seconds"] <= log[-1]["seconds"]


def test_weights_are_a_checkpoint(trained):
    folder, _ = trained
    model, state = load_checkpoint(folder / "dense.safetensors", CONFIG.model)
    assert model == CONFIG.model
    assert not torch.equal(state["head.weight"], weights(folder, "windows")["head.weight"])


def test_sizes_of_the_checkpoint_need_no_name(trained):
    """Heads and epsilon are beside the weights, as nothing in them says so."""
    folder, _ = trained
    model, _, _ = load_model(folder / "dense.safetensors")
    assert (model.heads, model.eps) == (CONFIG.model.heads, CONFIG.model.eps)


def test_same_seed_same_weights(trained, tmp_path):
    folder, reports = trained
    again = train(tmp_path)
    assert [r.loss for r in again] == [r.loss for r in reports]
    assert_equal(weights(folder), weights(tmp_path))


def test_other_seed_other_weights(trained, tmp_path):
    train(tmp_path, replace(CONFIG, seed=1))
    assert not torch.equal(weights(trained[0])["head.weight"], weights(tmp_path)["head.weight"])


@pytest.mark.parametrize(("stop", "resumed"), [(2, 3), (3, 3), (4, 5), (6, 7), (1, 1)])
def test_resumed_training_is_the_same(stop, resumed, trained, tmp_path):
    """Stopped between measurements, the steps after the last one are made again."""
    folder, reports = trained
    with pytest.raises(Stopped):
        train(tmp_path, stop=stop)
    rest = train(tmp_path)
    assert (rest[0].stage, rest[0].step) == (reports[resumed - 1].stage, reports[resumed - 1].step)
    assert [r.loss for r in rest] == [r.loss for r in reports[resumed - 1:]]
    assert_equal(weights(folder), weights(tmp_path))


def test_finished_training_has_nothing_to_do(trained):
    folder, _ = trained
    assert train(folder) == []


def test_settings_must_be_the_same(tmp_path):
    train(tmp_path, replace(CONFIG, stages=CONFIG.stages[:1]))
    with pytest.raises(TrainError, match="holds a training with another seed, must be another"):
        train(tmp_path, replace(CONFIG, seed=1))
    with pytest.raises(TrainError, match="holds a training with another stages"):
        train(tmp_path, replace(CONFIG, stages=CONFIG.stages[1:]))
    with pytest.raises(TrainError, match="holds a training of 1 processes, must be resumed with as"
                                         " many, not 2"):
        train(tmp_path, replace(CONFIG, stages=CONFIG.stages[:1]), world=World(2, 0))


def test_stages_that_have_not_begun_may_be_others(trained, tmp_path):
    folder, reports = trained
    first, second = CONFIG.stages
    train(tmp_path, replace(CONFIG, stages=(first,)))
    rest = train(tmp_path)
    assert [r.loss for r in rest] == [r.loss for r in reports[first.steps:]]
    assert_equal(weights(folder), weights(tmp_path))
    with pytest.raises(TrainError, match="holds a training with another stages"):
        train(tmp_path, replace(CONFIG, stages=(first, replace(second, rate=2e-3))))
    with pytest.raises(TrainError, match="holds a training of 2 stages, must have as many or more"):
        train(tmp_path, replace(CONFIG, stages=(first,)))


def test_broken_state(tmp_path):
    (tmp_path / "state.pt").write_bytes(b"broken")
    with pytest.raises(TrainError, match="state.pt is truncated or corrupt: delete it"):
        train(tmp_path)


def test_size_is_checked_before_anything_is_trained(tmp_path):
    stages = (*CONFIG.stages, Stage(name="small", size=36, steps=1, batch=1, rate=1.0))
    with pytest.raises(SceneError, match="size is 36, must be at least 40"):
        train(tmp_path, replace(CONFIG, stages=stages))
    assert not list(tmp_path.iterdir())


def test_learns(tmp_path):
    """The network learns eight windows by heart."""
    stage = Stage(name="windows", size=48, steps=60, batch=8, rate=3e-3, warmup=10)
    trainer = Trainer(replace(CONFIG, validate_every=60, stages=(stage,)), tmp_path, device=CPU)
    batch = trainer.data.batch(48, 8, np.random.default_rng(0))
    trainer.data.batch = lambda size, count, generator, kind: batch
    losses = []
    trainer.run(lambda progress: losses.append(progress.loss))
    assert losses[0] > 2
    assert losses[-1] < 0.1


def test_a_loss_that_is_no_number_ends_it(tmp_path):
    stage = Stage(name="windows", size=48, steps=4, batch=2, rate=1e-3)
    trainer = Trainer(replace(CONFIG, validate_every=2, stages=(stage,)), tmp_path, device=CPU)

    def spoil(progress):
        if progress.step == 3:
            with torch.no_grad():
                trainer.network.cls_token.fill_(torch.nan)

    with pytest.raises(TrainError, match="loss of step 4 of stage windows is nan, must be finite"):
        trainer.run(spoil)
    # What was measured before is there to be resumed from.
    assert Trainer(trainer.config, tmp_path, device=CPU).step == 2


def test_what_decays():
    network = Trainer(CONFIG, Path("nowhere"), device=CPU).network
    decays, rest = (group["params"] for group in parameter_groups(network, 0.1))
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    assert {names[id(p)] for p in decays} == {
        "patch_embed.proj.weight", "head.weight", *(f"blocks.0.{layer}.weight" for layer in (
            "attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2"))}
    assert len(decays) + len(rest) == len(names)


def test_batches_are_shared_evenly():
    with pytest.raises(TrainError, match="batch of stage windows is 4, must be a multiple of the 3"
                                         " processes"):
        Trainer(CONFIG, Path("nowhere"), device=CPU, world=World(3, 0))


def test_world_of_torchrun(monkeypatch):
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    assert World.from_environment() == World(1, 0, 0)
    for name, value in (("WORLD_SIZE", "4"), ("RANK", "3"), ("LOCAL_RANK", "1")):
        monkeypatch.setenv(name, value)
    assert World.from_environment() == World(4, 3, 1)


@pytest.fixture(scope="module")
def selected(tmp_path_factory):
    folder = tmp_path_factory.mktemp("selected")
    return folder, train(folder, SELECT)


def loaded(folder, stage):
    return load_model(folder / f"{stage}.safetensors", SELECT.model)


def test_stages_with_selectors_begin_with_what_they_say(selected):
    folder, _ = selected
    dense, threshold, again, topk = (loaded(folder, stage.name) for stage in SELECT.stages)
    assert dense.selectors == topk.selectors == ()
    # Stages with a rate of 0 end with what they began with.
    assert_equal(topk.state, dense.state)
    assert_equal(again.state, threshold.state)
    assert_equal(again.selectors[0], threshold.selectors[0])
    assert not torch.equal(threshold.state["head.weight"], dense.state["head.weight"])


def test_measures_what_is_kept(selected):
    folder, reports = selected
    kept = {r.stage.name: r.kept for r in reports if r.accuracy is not None}
    assert kept["dense"] == () and kept["topk"] == (0.5,)
    assert len(kept["threshold"]) == 1 and 0.5 < kept["threshold"][0] <= 1
    log = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    assert log[-1]["kept"] == [0.5] and "kept" not in log[0]


def test_selectors_are_matched_by_their_blocks(tmp_path):
    """One more is put between two: these go on, it is new; then the first is left out."""
    stage = replace(SELECT.stages[1], steps=1, blocks=(1, 3), keep=(0.7, 0.5), loss_distil=0.0,
                    loss_tokens=0.0)
    stages = (stage, replace(stage, name="more", rate=0.0, blocks=(1, 2, 3), keep=(0.7, 0.6, 0.5)),
              replace(stage, name="fewer", rate=0.0, blocks=(2, 3)))
    config = replace(SELECT, model=replace(SELECT.model, depth=4), stages=stages)
    train(tmp_path, config)
    first, more, fewer = (load_model(tmp_path / f"{stage.name}.safetensors", config.model).selectors
                          for stage in stages)
    for one, other in ((first[0], more[0]), (first[1], more[2]), (more[1], fewer[0]),
                       (more[2], fewer[1])):
        assert_equal(one, other)
    new = Trainer(replace(config, stages=(stages[1],)), tmp_path / "new", device=CPU).network
    assert not torch.equal(more[1]["embed.weight"], first[1]["embed.weight"])
    assert new.state()["selectors.1.score3.bias"].equal(more[1]["score3.bias"])
    assert stored_pruning(tmp_path / "more.safetensors") == stages[1].pruning


def test_weights_must_say_the_blocks_of_selectors(selected, tmp_path):
    folder, _ = selected
    path = tmp_path / "old.safetensors"
    save_file(load_file(folder / "threshold.safetensors"), path)
    config = replace(SELECT, weights=str(path), stages=SELECT.stages[1:2])
    with pytest.raises(TrainError, match="old.safetensors has the parameters of 1 selectors, must"
                                         " say which blocks they are before"):
        Trainer(config, tmp_path / "new", device=CPU)
    train(tmp_path / "topk", replace(config, stages=(replace(SELECT.stages[3], start=""),)))
    assert loaded(tmp_path / "topk", "topk").selectors == ()


@pytest.mark.parametrize("kind", ["random", "oracle"])
def test_stages_to_compare_with(kind, selected, tmp_path):
    """They learn, are resumed and measured as topk is, and are other networks."""
    folder, _ = selected
    stage = replace(SELECT.stages[3], kind=kind, start="", rate=1e-3, precision="float32")
    config = replace(SELECT, weights=str(folder / "dense.safetensors"), stages=(stage,))
    reports = train(tmp_path / "whole", config)
    with pytest.raises(Stopped):
        train(tmp_path / "rest", config, stop=2)
    assert [r.loss for r in train(tmp_path / "rest", config)] == [r.loss for r in reports[2:]]
    first, second = (loaded(tmp_path / name, "topk").state for name in ("whole", "rest"))
    assert_equal(first, second)
    assert reports[-1].kept == (0.5,)
    with pytest.raises(ValueError, match=f"selector is '{kind}', must be one of threshold, topk"):
        stored_pruning(tmp_path / "whole" / "topk.safetensors")
    train(tmp_path / "usual", replace(config, stages=(replace(stage, kind="topk"),)))
    assert not torch.equal(loaded(tmp_path / "usual", "topk").state["head.weight"],
                           first["head.weight"])


def test_state_of_before_a_setting_was_there(tmp_path):
    """A stage that ended did without it; one in the middle would go on as another."""
    config = replace(SELECT, stages=SELECT.stages[:2])
    with pytest.raises(Stopped):
        train(tmp_path, config, stop=4)
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    del state["config"]["stages"][0]["quiet"]
    torch.save(state, tmp_path / "state.pt")
    assert len(train(tmp_path, config)) == 1
    del state["config"]["stages"][1]["quiet"]
    torch.save(state, tmp_path / "state.pt")
    with pytest.raises(TrainError, match="holds a training with another stages"):
        train(tmp_path, config)


@pytest.mark.parametrize("name", ["threshold", "topk"])
def test_selectors_are_quantised_and_equal_shorter_lists(name, selected):
    """The measured accuracy is that of golden.pruning, and the file is all that it needs."""
    folder, reports = selected
    stage = next(stage for stage in SELECT.stages if stage.name == name)
    model, state, selectors = loaded(folder, name)
    twin = FloatViT(model, state)
    scenes = fixed_set("validation", SELECT.validation)
    pruned = PrunedViT(twin, stage.pruning, selectors)
    found = [pruned.run(image) for image in grey_images(scenes.frames)]
    right = [int(image.logits.argmax()) == label
             for image, label in zip(found, scenes.labels, strict=True)]
    measured = next(r for r in reports if r.stage == stage and r.step == stage.steps)
    assert sum(right) / len(right) == measured.accuracy
    shares = [len(image.steps[0].kept) / 100 for image in found]
    assert sum(shares) / len(shares) == pytest.approx(measured.kept[0])
    qvit = quantize(twin, [scenes.rgb(0), scenes.rgb(1)], weights=name, pruning=stage.pruning,
                    selectors=selectors)
    assert len(run_integer(qvit, scenes.rgb(2))[0]) == model.classes


@pytest.mark.parametrize(("stop", "resumed"), [(3, 2), (4, 4), (5, 5), (8, 8), (9, 9)])
def test_resumed_selectors_are_the_same(stop, resumed, selected, tmp_path):
    folder, reports = selected
    with pytest.raises(Stopped):
        train(tmp_path, SELECT, stop=stop)
    rest = train(tmp_path, SELECT)
    assert [r.loss for r in rest] == [r.loss for r in reports[resumed:]]
    for stage in SELECT.stages:
        first, second = loaded(folder, stage.name), loaded(tmp_path, stage.name)
        assert_equal(first.state, second.state)
        for one, other in zip(first.selectors, second.selectors, strict=True):
            assert_equal(one, other)
    assert train(tmp_path, SELECT) == []


def test_begins_with_the_weights_of_a_file(selected, tmp_path):
    folder, _ = selected
    config = replace(SELECT, weights=str(folder / "dense.safetensors"), stages=(
        replace(SELECT.stages[1], rate=0.0),))
    train(tmp_path, config)
    assert_equal(loaded(tmp_path, "threshold").state, loaded(folder, "dense").state)
    with pytest.raises(ValueError, match="missing.safetensors"):
        train(tmp_path / "new", replace(config, weights="missing.safetensors"))


def test_ratio_is_learned(tmp_path):
    """With nothing but that loss, selectors keep what they are told to."""
    stage = replace(SELECT.stages[1], steps=50, rate=1e-2, batch=8, loss_class=0.0,
                    loss_distil=0.0, loss_tokens=0.0, keep=(0.3,))
    trainer = Trainer(replace(SELECT, stages=(stage,), validate_every=50), tmp_path, device=CPU)
    losses = []
    trainer.run(lambda progress: losses.append(progress.loss))
    assert losses[0] > 0.3
    assert sum(losses[-10:]) / 10 < 0.05


def test_rate_of_selectors_and_network(selected):
    network = TrainablePrunedViT(SELECT.model, SELECT.stages[1].pruning)
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    groups = parameter_groups(network, 0.1, 0.25)
    for group in groups:
        own = {names[id(parameter)].startswith("selectors.") for parameter in group["params"]}
        assert own == {group["factor"] == 1.0}
    assert sorted((g["factor"], g["weight_decay"]) for g in groups) == [
        (0.25, 0.0), (0.25, 0.1), (1.0, 0.0), (1.0, 0.1)]
    assert sum(len(group["params"]) for group in groups) == len(names)


@pytest.mark.slow
def test_two_processes(tmp_path):
    """Both have the same weights in the end: only so can a second run resume the first."""
    config = tmp_path / "train.yaml"
    config.write_text("model: scenes\nvalidation: 10\nvalidate_every: 2\nstages:\n"
                      "- {name: windows, size: 48, steps: 3, batch: 4, rate: 0.001}\n"
                      "- {name: dense, size: 120, steps: 1, batch: 4, rate: 0.001}\n"
                      "- {name: pruned, kind: threshold, size: 120, steps: 3, batch: 4,"
                      " rate: 0.001, blocks: [2, 4], keep: [0.7, 0.5]}\n")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone",
               "--nproc-per-node", "2", "-m", "golden.train", str(config), "--output"]
    found = []
    for name in ("first", "second"):
        done = subprocess.run([*command, str(tmp_path / name)], cwd=ROOT, capture_output=True,
                              text=True, timeout=300, env={**os.environ, "OMP_NUM_THREADS": "1"})
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("windows 2/3") == 1, "one process prints"
        found.append(load_file(tmp_path / name / "pruned.safetensors"))
    assert_equal(*found)
    assert any(name.startswith("selectors.1.") for name in found[0])
    state = torch.load(tmp_path / "first" / "state.pt", weights_only=True)
    assert state["processes"] == 2
