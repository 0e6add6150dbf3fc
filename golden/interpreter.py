# SPDX-License-Identifier: BSD-2-Clause
"""The accelerator in numpy: executes the bytes of a memory image on modelled buffers.

It decodes instructions, tables, block lists and weight streams as the hardware does and knows
nothing of the network, so it proves a lowering without the hardware. Buffers start with rubbish.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from amaranth.lib import data
from numpy.typing import NDArray

from golden.interpreter_buffers import PassRows
from golden.interpreter_passes import Execution, Output, Passes, ProgramError
from golden.interpreter_selector import TokenSelector
from golden.program import LAYOUTS, program_checksum
from rtl.config import BLOCK, Config
from rtl.isa import (
    INSTRUCTION_BYTES,
    ISA_VERSION,
    MAGIC,
    NO_BLOCK,
    SEGMENTS,
    ListEntry,
    LoadKind,
    Opcode,
    PolyRow,
    Source,
    Table,
)

__all__ = ["Execution", "Output", "ProgramError", "execute", "execute_run"]


def _unpack(word: int) -> tuple[int, int, int]:
    row = PolyRow.from_bits(word & ((1 << PolyRow.size) - 1))
    return row.c0, row.c1, row.c2


class _Machine(Passes):
    def __init__(self, image: bytes, config: Config, frames: Sequence[bytes], seed: int) -> None:
        super().__init__(config, seed)
        self.image, self.frames = image, frames
        self.round = 0
        self.random = np.random.default_rng(seed)
        self.handlers: dict[Any, Callable[[data.Const], None]] = {
            Opcode.TABLE: self.table, Opcode.LOAD: self.load, Opcode.IMAGE: self.begin_image,
            Opcode.PASS: self.run_pass, Opcode.END: self.end}
        if config.pruning:
            self.handlers |= {Opcode.SELECT: self.select, Opcode.PRUNE: self.prune}

    def instruction(self, index: int) -> data.Const:
        raw = self.image[INSTRUCTION_BYTES * index:INSTRUCTION_BYTES * (index + 1)]
        try:
            layout = LAYOUTS[Opcode(raw[0])]
        except (IndexError, ValueError):
            raise ProgramError(f"instruction {index} has no known opcode") from None
        return layout.from_bits(int.from_bytes(raw, "little"))

    def run(self) -> list[Execution]:
        self.begin = begin = self.instruction(0)
        if begin.opcode != Opcode.BEGIN or begin.magic != MAGIC:
            raise ProgramError("the program does not start with BEGIN and its magic number")
        if begin.version != ISA_VERSION:
            raise ProgramError(f"the program is of version {begin.version} of the instruction set,"
                               f" must be {ISA_VERSION}")
        if not 0 < begin.images <= SEGMENTS or len(self.frames) % begin.images:
            raise ProgramError(f"the program is for {begin.images} images in a round, must be for 1"
                               f" to {SEGMENTS} that divide the {len(self.frames)} frames")
        if not 0 < begin.loop < begin.instructions:
            raise ProgramError(f"the loop begins at instruction {begin.loop} of"
                               f" {begin.instructions}, must be behind BEGIN")
        try:
            total = program_checksum(self.image)
        except ValueError as error:
            raise ProgramError(str(error)) from None
        if total:
            raise ProgramError(f"the checksum of the program is {total:#x}, must be 0")
        self.images, self.weights = begin.images, self._weights(begin)
        for number in range(len(self.frames) // begin.images):
            self._round(number, begin.loop if number else 1)
        return self.results

    def _round(self, number: int, start: int) -> None:
        """Execute the instructions from ``start`` on."""
        self.round, self.weight_row, begun = number, 0, False
        self.results.append(Execution())
        for index in range(start, self.begin.instructions):
            fields = self.instruction(index)
            is_last = index == self.begin.instructions - 1
            if fields.opcode == Opcode.BEGIN or (fields.opcode == Opcode.END) != is_last:
                raise ProgramError(f"instruction {index} of {self.begin.instructions} is"
                                   f" {Opcode(fields.opcode).name}")
            opcode = Opcode(fields.opcode)
            if opcode not in self.handlers:
                raise ProgramError(f"instruction {index} is {opcode.name}, configuration"
                                   f" {self.config.name} has no selector")
            begun |= opcode == Opcode.IMAGE
            if not begun and opcode not in (Opcode.TABLE, Opcode.LOAD):
                raise ProgramError(f"instruction {index} is {opcode.name}, there is no IMAGE before"
                                   " it")
            self.handlers[opcode](fields)
        if self.weight_row != len(self.weights):
            raise ProgramError(f"the program used {self.weight_row} rows of weights, there are"
                               f" {len(self.weights)}")

    def _weights(self, begin: data.Const) -> NDArray[np.uint8]:
        """Return the array rows of the weight stream, [rows, columns]."""
        c = self.config
        share = c.columns // c.ports
        length = begin.weight_beats * c.port_bits // 8
        parts = [np.frombuffer(self.image, np.uint8, length,
                               begin.weight_offset + port * begin.weight_stride)
                 for port in range(c.ports)]
        return np.concatenate([part.reshape(-1, share) for part in parts], axis=1)

    def table(self, fields: data.Const) -> None:
        table = Table(fields.table)
        for i in range(fields.count):
            if table == Table.LIST:
                for bank in range(self.config.row_blocks):
                    bits = fields.rows[i] >> (ListEntry.size * bank) & NO_BLOCK
                    entry = ListEntry.from_bits(bits)
                    self.lists[fields.first + i, bank] = -1 if bits == NO_BLOCK else entry.index
                    self.broadcast[fields.first + i, bank] = entry.broadcast
            else:
                self.tables[table][fields.first + i] = _unpack(fields.rows[i])

    def select(self, fields: data.Const) -> None:
        self._selector(lambda: self.selector.select(fields))

    def prune(self, fields: data.Const) -> None:
        self._selector(self.selector.prune)

    def _selector(self, begin: Callable[[], None]) -> None:
        """Begin something once the selector has ended."""
        try:
            self.selector.decide(self.tables[Table.RECIPROCAL])
            begin()
        except ValueError as error:
            raise ProgramError(str(error)) from error

    def begin_image(self, fields: data.Const) -> None:
        if fields.image == 0:
            self.selector = TokenSelector(self.config.residual_rows)
            self.result.selections = self.selector.selections
            self.result.dropped_by = self.selector.dropped_by
        first = fields.first_row + self._step(fields, self.round)
        self._selector(lambda: self.selector.image(fields.image, first, self.begin.tokens))

    def _step(self, fields: data.Const, number: int) -> int:
        """Return by how many rows of the residual a round lies further on."""
        return self.begin.row_step if fields.alternate and number % 2 else 0

    def end(self, fields: data.Const) -> None:
        tiles = self.config.class_tiles
        for image in range(self.images):
            logits = self.logit[image * tiles:(image + 1) * tiles].reshape(-1)[:fields.classes]
            self.result.outputs.append(Output(logits.copy(), int(logits.argmax()),
                                              self.selector.segments[image][1]))

    def load(self, fields: data.Const) -> None:
        frame, number = fields.kind == LoadKind.FRAME, self.round + fields.ahead
        image = number * self.images + fields.image
        if image >= len(self.frames):
            return
        raw = np.frombuffer(self.frames[image] if frame else self.image, np.uint8)
        first = fields.first + (0 if frame else self._step(fields, number))
        size = 1 if frame else 2
        # Each row of pixels is padded to whole blocks of the network.
        channels = -(-fields.row_bytes // size // BLOCK) * BLOCK
        blocks = np.arange(channels // self.config.block)
        pitch = fields.count * fields.row_bytes
        for line in range(fields.lines):
            for i in range(fields.count):
                at = np.array([first + line * fields.count + i])
                row = PassRows(at, at)
                for y in range(fields.patch_rows):
                    if frame:
                        start = (line * fields.patch_rows + y) * pitch + i * fields.row_bytes
                    else:
                        start = i * fields.row_bytes
                    part = raw[fields.offset + start:][:fields.row_bytes]
                    values = part.view(np.uint8 if frame else "<i2").astype(np.int64)
                    # What pads a row is not defined.
                    padding = self.random.integers(0, 256, channels - len(values))
                    values = np.concatenate([values, padding])
                    self.store(Source.PATCH if frame else Source.RESIDUAL, 0, fields.stride, row,
                               blocks + y * len(blocks), values)


def execute_run(image: bytes, config: Config, frames: Sequence[NDArray[np.uint8]], *,
                seed: int = 0) -> list[Execution]:
    """Run the program in ``image`` on frames, one after another; return what each round did.

    Parameters
    ----------
    image
        The memory image.
    config
        The configuration whose hardware it is for.
    frames
        Frames, their bytes in order.
    seed
        Of what the buffers hold at the start.
    """
    return _Machine(image, config, [frame.tobytes() for frame in frames], seed).run()


def execute(image: bytes, config: Config, frame: NDArray[np.uint8], *, seed: int = 0) -> Execution:
    """Run the program in ``image`` of single images on one frame, see :func:`execute_run`."""
    (result,) = execute_run(image, config, [frame], seed=seed)
    return result
