# SPDX-License-Identifier: BSD-2-Clause
"""Whether a batch fits: images that share the weights of all blocks behind the first selector."""

from golden.model import ModelConfig
from golden.program import head_slot
from golden.pruning import PruningConfig, tokens_left
from rtl.config import Config, ConfigError
from rtl.isa import SEGMENTS

__all__ = ["check_batch"]


def check_batch(model: ModelConfig, pruning: PruningConfig | None, config: Config,
                batch: int) -> None:
    """Raise ConfigError, naming what is needed and what there is, if a batch does not fit."""
    if not 1 <= batch <= SEGMENTS:
        raise ConfigError(f"the batch is {batch}, must be between 1 and {SEGMENTS}")
    if batch == 1:
        return
    if pruning is None or pruning.selector != "topk":
        kind = "none" if pruning is None else pruning.selector
        raise ConfigError(f"a batch of {batch} images has selector {kind}, must have topk: images"
                          " share the weights of the blocks behind it")
    name = f"configuration {config.name}"
    left = tokens_left(model, pruning)
    patches = model.grid ** 2
    kept = pruning.keep_counts(patches)
    # Where nothing is dropped the last token takes the place of a package of itself.
    dropped = max(max(1, before - after)
                  for before, after in zip((patches, *kept), kept, strict=False))
    merged = int(pruning.package == "merged" and len(kept) > 1)
    rows, heads = batch * left[1], model.heads * head_slot(model)
    words = max(2 * config.words(heads), config.words(model.hidden))
    tiles = -(-heads // config.columns)
    for what, need, limit, most in (
        ("sets of logits", batch, "images", config.images),
        ("words of residual", batch * model.tokens * config.words(model.width), "residual_depth",
         config.residual_depth),
        ("rows in a pass behind the first selector", rows, "max_rows", config.pass_rows),
        ("rows that a selector drops", batch * (dropped + merged), "max_rows", config.pass_rows),
        ("words of activations", rows * words, "act_depth", config.act_depth),
        ("words of keys", -(-rows // config.columns) * config.columns * tiles, "key_depth",
         config.key_depth),
        ("words of values", rows * tiles, "value_depth", config.value_depth),
    ):
        if need > most:
            raise ConfigError(f"a batch of {batch} images of {model.name} needs {need} {what},"
                              f" {need - most} more than {limit} of {name}, {most}")
