# SPDX-License-Identifier: BSD-2-Clause
"""Lowering of what is around the passes: LOADs, the loop over rounds, and the memory image."""

import numpy as np

from golden.assembler import instruction, table
from golden.fit import pack
from golden.lower_common import Lowering
from golden.program import sealed
from rtl.config import PASS_SLOTS
from rtl.isa import (
    INSTRUCTION_BYTES,
    ISA_VERSION,
    LANE_LAYOUT_ROWS,
    MAGIC,
    LoadKind,
    Opcode,
    Table,
    begin_layout,
    end_layout,
    image_layout,
    load_layout,
)

__all__ = ["Rounds"]

#: Alignment of the initial residual and of each weight stream in the image.
_RESIDUAL_ALIGN = 64
_WEIGHT_ALIGN = 4096


def _align(value: int, granule: int) -> int:
    return -(-value // granule) * granule


def _is_residual(word: int) -> bool:
    """Whether an instruction is a LOAD of the initial residual."""
    return Opcode(word & 0xFF) == Opcode.LOAD and load_layout.from_bits(
        word).kind == LoadKind.RESIDUAL


class Rounds:
    """The loop over images: what they need is loaded beside the passes of the one before.

    The frame of the next one is loaded as soon as the patch embedding has read the one before.
    Where the residual holds the rows of two images they take turns in it, and those of the next one
    are loaded after that. Else they are loaded at its start, when the last image has gone.

    The images of a batch have rows of their own, which are loaded the same way, but for the first
    of a round.

    Parameters
    ----------
    lowering
        The network on its way into the assembler.
    batch
        Images of a round.
    alone
        Blocks that are computed of one image alone, from the first on.

    Members
    -------
    alternate
        Whether rounds take turns in the residual.
    """

    def __init__(self, lowering: Lowering, batch: int, alone: int) -> None:
        self.lowering, self.batch, self.alone = lowering, batch, alone
        config, tokens = lowering.config, lowering.model.tokens
        self.alternate = (batch == 1 and 2 * tokens <= config.residual_rows and
                          2 * tokens * lowering.residual_words <= config.residual_depth)

    def _load_frame(self, image: int, *, ahead: bool = False, under_way: int = 0) -> int:
        model = self.lowering.model
        return instruction(
            load_layout, Opcode.LOAD, kind=LoadKind.FRAME, ahead=int(ahead), image=image,
            under_way=under_way, row_bytes=model.patch * model.channels,
            first=model.special_tokens, count=model.grid, lines=model.grid, patch_rows=model.patch,
            stride=self.lowering.patch_words)

    def _load_residual(self, image: int, *, ahead: bool = False, under_way: int = 0) -> int:
        """Return the LOAD of the initial residual, without its place in the memory image."""
        model = self.lowering.model
        return instruction(
            load_layout, Opcode.LOAD, kind=LoadKind.RESIDUAL, ahead=int(ahead),
            alternate=int(ahead), under_way=under_way, row_bytes=2 * model.width,
            first=image * model.tokens, count=model.tokens, lines=1, patch_rows=1,
            stride=self.lowering.residual_words)

    def image(self, image: int) -> None:
        """Append what begins an image; the first one begins the loop."""
        out = self.lowering.out
        out.body.append(instruction(image_layout, Opcode.IMAGE, image=image,
                                    first_row=image * self.lowering.model.tokens,
                                    alternate=int(self.alternate)))
        out.all_waited()
        if not self.alternate and (image == 0 or self.alone == 1):
            out.body.append(self._load_residual(image))

    def after_values(self, block: int) -> None:
        """Append what is loaded for the next image once the V of ``block`` is queued."""
        if block >= self.alone:
            return
        body, following = self.lowering.out.body, (self.lowering.out.image or 0) + 1
        # Behind Q, K and V: the patch embedding has read the frame before.
        behind = PASS_SLOTS - 1
        if block == 0:
            body.append(self._load_frame(following % self.batch, ahead=following == self.batch,
                                         under_way=behind))
        elif block == 1 and following < self.batch:
            body.append(self._load_residual(following, under_way=behind))
        elif block == 1 and self.alternate:
            body.append(self._load_residual(0, ahead=True, under_way=behind))

    def after_hidden(self, block: int) -> None:
        """Append what is loaded once the MLP 1 of ``block`` is queued."""
        # The second LOAD waits for the first: a block later, or as late as a single one allows.
        if block + 1 == self.lowering.model.depth == 1 and self.alternate:
            self.lowering.out.body.append(
                self._load_residual(0, ahead=True, under_way=PASS_SLOTS - 1))

    def memory_image(self) -> bytes:
        """Return the memory image of all that has been appended."""
        qvit, config, model = self.lowering.qvit, self.lowering.config, self.lowering.model
        out = self.lowering.out
        before = [*table(Table.LANE, LANE_LAYOUT_ROWS["exp"][0], pack(qvit.exp)),
                  *table(Table.RECIPROCAL, 0, pack(qvit.reciprocal)),
                  *table(Table.RSQRT, 0, pack(qvit.rsqrt)), *out.list_tables()]
        if self.alternate:
            before.append(self._load_residual(0))
        before.append(self._load_frame(0))
        rows = np.concatenate(out.weights)
        ports = [port.tobytes() for port in np.split(rows, config.ports, axis=1)]

        count = len(before) + len(out.body) + 2  # BEGIN, END
        residual = _align(count * INSTRUCTION_BYTES, _RESIDUAL_ALIGN)
        weights = _align(residual + qvit.initial.nbytes, _WEIGHT_ALIGN)
        stride = _align(len(ports[0]), _WEIGHT_ALIGN)
        begin = instruction(
            begin_layout, Opcode.BEGIN, version=ISA_VERSION, magic=MAGIC, instructions=count,
            tokens=model.tokens, loop=1 + len(before), images=self.batch,
            row_step=model.tokens if self.alternate else 0, weight_offset=weights,
            weight_stride=stride, weight_beats=len(ports[0]) * 8 // config.port_bits)
        end = instruction(end_layout, Opcode.END, classes=model.classes)

        words = [begin, *before, *out.body, end]
        place = residual << load_layout["offset"].offset
        program = b"".join((word | place if _is_residual(word) else word).to_bytes(
            INSTRUCTION_BYTES, "little") for word in words)
        parts = [(0, program), (residual, qvit.initial.astype("<i2").tobytes()),
                 *((weights + p * stride, port) for p, port in enumerate(ports))]
        image = bytearray(parts[-1][0] + len(parts[-1][1]))
        for start, part in parts:
            image[start:start + len(part)] = part
        return sealed(bytes(image))
