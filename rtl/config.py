# SPDX-License-Identifier: BSD-2-Clause
"""Configuration of the accelerator: every size is given here or derived from what is given here."""

import re
from dataclasses import asdict, dataclass, replace
from typing import Any

from rtl.isa import SEGMENTS, ListEntry, pass_layout

__all__ = ["BLOCK", "CASCADE", "CONFIGS", "Config", "ConfigError", "GROUP", "MIN_TILE_CYCLES",
           "MULTIPLIERS", "PASS_SLOTS", "SCALE_SLOTS", "named"]

#: Channels in a block of a network: its sizes, and rows of pixels, are padded to whole ones.
BLOCK = 16

#: Sizes of the array, and blocks that an instruction can name of its rows or columns.
_ARRAY_SIZES = (8, 16, 32, 64, 128)
_ARRAY_BLOCKS = 8

#: Fewest cycles of a tile: accumulators, row maxima and statistics are read-modify-write.
MIN_TILE_CYCLES = 16

#: Passes that are queued, issued or draining at once.
PASS_SLOTS = 4

#: Column tiles whose bias and scale are held at once: those in the pipeline and the next one.
SCALE_SLOTS = 8

#: Rows of the array in one DSP cascade: 8 * 127 * 255 < 2**18 keeps packed products apart.
CASCADE = 8

#: Column pairs of the array that share one module: 8 columns, as activations hop by 8.
GROUP = 8

#: Forms of the multipliers of the array: Verilog that any tool maps, and instances of DSP48E2.
MULTIPLIERS = ("portable", "dsp48e2")


class ConfigError(ValueError):
    """A configuration that cannot be built, or that cannot hold what it is asked to hold."""


def _ceil_div(a: int, b: int) -> int:
    return -(-a // b)


@dataclass(frozen=True, kw_only=True)
class Config:
    """Sizes of one accelerator.

    Parameters
    ----------
    name
        Name under which the configuration is listed and emitted.
    rows, columns
        Array size: ``rows`` input channels by ``columns`` output channels (or tokens).
    ports, port_bits
        Number of AXI4 masters and their data width.
    max_tokens
        Tokens in an image, special tokens included.
    max_width
        Residual channels; also the channels of all heads, each head padded to 16, 32 or 64.
    max_hidden
        Hidden channels of the MLP.
    max_patch
        Bytes of one patch in its buffer, each patch row padded to a multiple of 16 bytes.
    max_classes
        Logits.
    weight_tiles
        Depth of the weight FIFO in array tiles.
    images
        Images whose residual rows have addresses at once: 2 for the next one beside this one, more
        for batches, as far as the residual buffer holds the rows of narrow networks.
    load_rows
        Rows of a weight tile that enter the array in a cycle, 1 or 2. With 2, weights that the FIFO
        holds are loaded at twice the rate of a memory that gives a row a cycle; keys and values
        remain at one row a cycle.
    clock_mhz
        Clock at which times and rates are stated.
    max_rows
        Rows of a pass: the tokens of all images of a batch; 0 for ``max_tokens``.
    pruning
        Whether there is a token selector: programs may then have SELECT and PRUNE.
    multiplier
        Form of the multipliers of the array, one of ``MULTIPLIERS``; it changes no result.
    """

    name: str
    rows: int
    columns: int
    ports: int
    port_bits: int
    max_tokens: int
    max_width: int
    max_hidden: int
    max_patch: int
    max_classes: int
    weight_tiles: int
    clock_mhz: int
    images: int = 2
    max_rows: int = 0
    load_rows: int = 1
    pruning: bool = True
    multiplier: str = "portable"

    def __post_init__(self) -> None:
        for size in ("rows", "columns"):
            value = getattr(self, size)
            if value not in _ARRAY_SIZES:
                raise ConfigError(f"{size} is {value}, must be 8, 16, 32, 64 or 128")
        if self.banks > _ARRAY_BLOCKS:
            raise ConfigError(f"an array of {self.rows} x {self.columns} has {self.banks} blocks of"
                              f" {self.block} channels, must have at most {_ARRAY_BLOCKS}")
        if self.multiplier not in MULTIPLIERS:
            raise ConfigError(
                f"multiplier is {self.multiplier!r}, must be {' or '.join(MULTIPLIERS)}")
        if self.load_rows not in (1, 2):
            raise ConfigError(f"load_rows is {self.load_rows}, must be 1 or 2")
        if self.port_bits not in (32, 64, 128):
            raise ConfigError(f"port_bits is {self.port_bits}, must be 32, 64 or 128")
        if self.ports not in (1, 2, 4, 8):
            raise ConfigError(f"ports is {self.ports}, must be 1, 2, 4 or 8")
        if self.columns % self.bus_bytes:
            raise ConfigError(
                f"{self.ports} ports of {self.port_bits} bits carry {self.bus_bytes} bytes a cycle,"
                f" must divide the {self.columns} bytes of an array row")
        for size, low, high in (("max_tokens", 2, 1024), ("max_width", 16, 1008),
                                ("max_hidden", 16, 4096), ("max_patch", 16, 4096),
                                ("max_classes", 2, 4096), ("weight_tiles", 2, 256),
                                ("clock_mhz", 1, 1000), ("images", 1, SEGMENTS),
                                ("pass_rows", self.max_tokens, 1024)):
            value = getattr(self, size)
            if not low <= value <= high:
                raise ConfigError(f"{size} is {value}, must be between {low} and {high}")
        for size in ("max_width", "max_hidden", "max_patch"):
            value = getattr(self, size)
            if value % BLOCK:
                raise ConfigError(f"{size} is {value}, must be a multiple of {BLOCK}")
        self._check_instructions()

    def _check_instructions(self) -> None:
        """Refuse sizes that the fields of an instruction or of a block list cannot express."""
        channels = self.rows << ListEntry["index"].width
        tiles = (1 << pass_layout["column_tiles"].width) - 1
        for size, limit, why in (
            ("max_width", channels, f"block lists reach with {self.rows} rows"),
            ("max_hidden", channels, f"block lists reach with {self.rows} rows"),
            ("max_patch", channels, f"block lists reach with {self.rows} rows"),
            ("max_hidden", tiles * self.columns, f"{tiles} tiles of {self.columns} columns hold"),
            ("max_classes", tiles * self.columns, f"{tiles} tiles of {self.columns} columns hold"),
        ):
            value = getattr(self, size)
            if value > limit:
                raise ConfigError(f"{size} is {value}, must be at most {limit}, which {why}")
        words = 1 << pass_layout["source_base"].width
        for buffer in ("act", "patch", "residual", "score"):
            depth = getattr(self, f"{buffer}_depth")
            if depth > words:
                raise ConfigError(f"the {buffer} buffer takes {depth} words of {self.lanes}"
                                  f" channels, {depth - words} more than an instruction can"
                                  f" address, {words}")

    # Array and memory bus

    @property
    def bus_bytes(self) -> int:
        """Bytes that all ports together carry in a cycle."""
        return self.ports * self.port_bits // 8

    @property
    def macs_per_cycle(self) -> int:
        return self.rows * self.columns

    @property
    def block(self) -> int:
        """Channels of a block, the granule of block lists, bank selection and write enables."""
        return min(BLOCK, self.rows, self.columns)

    @property
    def row_blocks(self) -> int:
        """Blocks that enter the array in a cycle."""
        return self.rows // self.block

    @property
    def column_blocks(self) -> int:
        """Blocks that leave the array in a cycle."""
        return self.columns // self.block

    @property
    def banks(self) -> int:
        """Banks of a streaming buffer, one block wide: block ``b`` is in bank ``b % banks``."""
        return max(self.row_blocks, self.column_blocks)

    @property
    def lanes(self) -> int:
        """Lanes of a streaming buffer word, and of the shared polynomial evaluator."""
        return self.banks * self.block

    @property
    def comparators(self) -> int:
        """Scores that the token selector compares with a threshold in a cycle."""
        return self.columns // 2

    @property
    def package_lanes(self) -> int:
        """Channels of a package token that are summed at once, half a column tile."""
        return max(self.block, self.columns // 2)

    @property
    def package_parts(self) -> int:
        """Parts of a column tile that are summed one after another."""
        return self.columns // self.package_lanes

    # Rows

    @property
    def pass_rows(self) -> int:
        """Rows of a pass, and positions of the token list, at most."""
        return self.max_rows or self.max_tokens

    @property
    def residual_rows(self) -> int:
        """Rows of the residual that have addresses, of all images."""
        return self.images * self.max_tokens

    # Buffers, in words of ``lanes`` channels (streaming) or ``columns`` channels (stationary)

    def words(self, channels: int) -> int:
        """Words of a streaming buffer that hold ``channels`` channels of one row."""
        return _ceil_div(channels, self.lanes)

    @property
    def act_depth(self) -> int:
        """Words of the activation buffer: Q and attention output together, or the hidden layer."""
        return self.max_tokens * max(2 * self.words(self.max_width), self.words(self.max_hidden))

    @property
    def patch_depth(self) -> int:
        return self.max_tokens * self.words(self.max_patch)

    @property
    def residual_depth(self) -> int:
        return self.max_tokens * self.words(self.max_width)

    @property
    def score_words(self) -> int:
        """Words of one row of scores."""
        return self.words(self.max_tokens)

    @property
    def score_depth(self) -> int:
        """Words of the score buffer: two heads, so that one is written while one is read."""
        return 2 * self.max_tokens * self.score_words

    @property
    def token_tiles(self) -> int:
        """Column tiles that hold all tokens."""
        return _ceil_div(self.max_tokens, self.columns)

    @property
    def key_depth(self) -> int:
        """Words of ``columns`` bytes of the key buffer."""
        return self.token_tiles * _ceil_div(self.max_width, self.columns) * self.columns

    @property
    def value_depth(self) -> int:
        """Words of ``columns`` bytes of the value buffer, for whole row tiles of tokens."""
        tokens = _ceil_div(self.max_tokens, self.rows) * self.rows
        return tokens * _ceil_div(self.max_width, self.columns)

    @property
    def list_depth(self) -> int:
        """Entries of the block list memory."""
        return 512

    @property
    def class_tiles(self) -> int:
        return _ceil_div(self.max_classes, self.columns)

    @property
    def weight_depth(self) -> int:
        """Rows of ``columns`` bytes of the weight FIFO."""
        return self.weight_tiles * self.rows

    def to_dict(self) -> dict[str, int | str]:
        """Value of the configuration as plain data, as written to ``heatvit.json``."""
        return asdict(self)


def _config(name: str, rows: int, columns: int, ports: int, port_bits: int, **sizes: Any) -> Config:
    return Config(name=name, rows=rows, columns=columns, ports=ports, port_bits=port_bits, **sizes)


_DEIT_BASE = {"max_tokens": 198, "max_width": 768, "max_hidden": 3072, "max_patch": 768,
              "max_classes": 1000}
_DEIT_SMALL = {"max_tokens": 198, "max_width": 384, "max_hidden": 1536, "max_patch": 768,
               "max_classes": 1000}

#: The configurations that are elaborated, linted and simulated in the test suite.
CONFIGS: dict[str, Config] = {c.name: c for c in (
    _config("nano", 8, 8, 1, 32, max_tokens=72, max_width=64, max_hidden=256, max_patch=768,
            max_classes=16, weight_tiles=8, clock_mhz=50),
    _config("tiny", 16, 16, 1, 64, max_tokens=112, max_width=64, max_hidden=256, max_patch=768,
            max_classes=16, weight_tiles=8, clock_mhz=50),
    _config("small", 32, 32, 2, 128, max_tokens=144, max_width=192, max_hidden=768, max_patch=768,
            max_classes=100, weight_tiles=8, clock_mhz=200),
    _config("kv260", 32, 64, 4, 128, **_DEIT_SMALL, weight_tiles=16, clock_mhz=250),
    _config("zcu104", 64, 32, 2, 128, **_DEIT_SMALL, weight_tiles=8, clock_mhz=250),
    _config("zcu102", 64, 64, 4, 128, **_DEIT_BASE, weight_tiles=192, load_rows=2, clock_mhz=300,
            images=4, max_rows=512),
    _config("ulx3s", 8, 8, 1, 64, max_tokens=102, max_width=64, max_hidden=192, max_patch=576,
            max_classes=16, weight_tiles=8, images=1, clock_mhz=50),
)}


def _with_array(config: Config, rows: int, columns: int) -> Config:
    """Return ``config`` with another array, and as many of its ports as a row is wide."""
    ports = min(config.ports, max(1, 8 * columns // config.port_bits))
    return replace(config, name=f"{config.name}-{rows}x{columns}", rows=rows, columns=columns,
                   ports=ports, port_bits=min(config.port_bits, 8 * columns))


def named(name: str) -> Config:
    """Return the configuration called ``name``.

    A name such as ``zcu102-32x64`` is that of ``zcu102`` with an array of 32 rows by 64 columns.
    """
    shape = re.fullmatch(r"(.+)-(\d+)x(\d+)", name)
    base = name if shape is None else shape[1]
    if base not in CONFIGS:
        raise ConfigError(f"no configuration is called {name!r}, there are {', '.join(CONFIGS)},"
                          " and each with another array as in zcu102-32x64")
    config = CONFIGS[base]
    return config if shape is None else _with_array(config, int(shape[2]), int(shape[3]))
