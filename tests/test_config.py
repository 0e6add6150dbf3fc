# SPDX-License-Identifier: BSD-2-Clause
"""Configurations: derived sizes, and sizes that are refused as nothing could address them."""

import re
from dataclasses import replace

import pytest

from rtl.config import CONFIGS, Config, ConfigError, named

TINY = named("tiny")
#: The largest of everything, on the largest array.
LARGEST = replace(TINY, name="largest", rows=128, columns=128, ports=8, port_bits=128,
                  max_tokens=1024, max_width=1008, max_hidden=4096, max_patch=4096,
                  max_classes=4096, weight_tiles=256)


@pytest.mark.parametrize(("change", "message"), [
    ({"rows": 48}, "rows is 48, must be 8, 16, 32, 64 or 128"),
    ({"columns": 4}, "columns is 4, must be 8, 16, 32, 64 or 128"),
    ({"rows": 8, "columns": 128, "max_patch": 512},
     "an array of 8 x 128 has 16 blocks of 8 channels, must have at most 8"),
    ({"port_bits": 256}, "port_bits is 256, must be 32, 64 or 128"),
    ({"ports": 3}, "ports is 3, must be 1, 2, 4 or 8"),
    ({"ports": 4}, "4 ports of 64 bits carry 32 bytes a cycle, must divide the 16 bytes"),
    ({"load_rows": 3}, "load_rows is 3, must be 1 or 2"),
    ({"multiplier": "dsp58"}, "multiplier is 'dsp58', must be portable or dsp48e2"),
    ({"max_tokens": 1025}, "max_tokens is 1025, must be between 2 and 1024"),
    ({"max_tokens": 1}, "max_tokens is 1, must be between 2 and 1024"),
    ({"weight_tiles": 1}, "weight_tiles is 1, must be between 2 and 256"),
    ({"max_width": 72}, "max_width is 72, must be a multiple of 16"),
    # 7 bits of a block list entry, 8 bits of column tiles, 16 bits of an address.
    ({"max_hidden": 2064}, "max_hidden is 2064, must be at most 2048, which block lists reach"),
    ({"max_patch": 2064}, "max_patch is 2064, must be at most 2048, which block lists reach"),
    ({"rows": 64, "max_hidden": 4096}, "max_hidden is 4096, must be at most 4080, which 255 tiles"),
    ({"max_classes": 4081}, "max_classes is 4081, must be at most 4080, which 255 tiles"),
    ({"max_tokens": 1024, "max_width": 528},
     "the act buffer takes 67584 words of 16 channels, 2048 more than an instruction can address"),
    ({"max_tokens": 1024}, "the score buffer takes 131072 words of 16 channels, 65536 more"),
])
def test_refused(change: dict[str, int | str], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        replace(TINY, **change)


@pytest.mark.parametrize("change", [
    {"max_hidden": 2048}, {"max_patch": 2048}, {"max_classes": 4080}, {"max_tokens": 720},
    {"rows": 64, "max_hidden": 4080},
])
def test_just_accepted(change: dict[str, int]) -> None:
    replace(TINY, **change)


@pytest.mark.parametrize(("name", "ports", "port_bits"), [
    ("zcu102-32x64", 4, 128), ("zcu102-64x32", 2, 128), ("zcu102-128x16", 1, 128),
    ("kv260-64x8", 1, 64), ("nano-16x32", 1, 32)])
def test_another_array(name: str, ports: int, port_bits: int) -> None:
    config, base = named(name), named(name.partition("-")[0])
    assert f"{base.name}-{config.rows}x{config.columns}" == config.name == name
    assert (config.ports, config.port_bits) == (ports, port_bits)
    array = ("name", "rows", "columns", "ports", "port_bits")
    assert replace(config, **{field: getattr(base, field) for field in array}) == base


@pytest.mark.parametrize(("name", "message"), [
    ("zcu102-48x64", "rows is 48, must be 8, 16, 32, 64 or 128"),
    ("zcu102-16x16", "max_hidden is 3072, must be at most 2048, which block lists reach"),
    ("huge-8x8", "no configuration is called 'huge-8x8', there are nano, "),
    ("zcu102-64", "no configuration is called 'zcu102-64', there are nano, ")])
def test_no_such_array(name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        named(name)


def test_unknown_name() -> None:
    with pytest.raises(ConfigError, match="no configuration is called 'huge', there are nano, "):
        named("huge")


@pytest.mark.parametrize("config", [*CONFIGS.values(), LARGEST], ids=lambda c: c.name)
def test_derived(config: Config) -> None:
    assert config.banks * config.block == config.lanes == max(config.rows, config.columns)
    assert config.bus_bytes * 8 == config.ports * config.port_bits
    # Q and attention output beside each other, or the hidden layer; two heads of scores.
    assert config.act_depth * config.lanes >= config.max_tokens * max(
        2 * config.max_width, config.max_hidden)
    assert config.score_depth * config.lanes >= 2 * config.max_tokens ** 2
    # One byte for each channel of each token, in whole tiles.
    for depth in (config.key_depth, config.value_depth):
        assert depth * config.columns >= config.max_tokens * config.max_width


@pytest.mark.parametrize("columns", [16, 32, 64, 128])
def test_keys_and_values_are_addressed_by_16_bits(columns: int) -> None:
    config = replace(LARGEST, columns=columns, ports=1, max_hidden=1024, max_classes=1000)
    assert max(config.key_depth, config.value_depth) <= 1 << 16
