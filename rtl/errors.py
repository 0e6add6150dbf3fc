# SPDX-License-Identifier: BSD-2-Clause
"""What every error code means: cause, instruction, bus, and what to do; and the page of it."""

from dataclasses import dataclass
from typing import Any

from rtl.isa import CHECKSUM_POLYNOMIAL, Error, Stall

__all__ = ["ERRORS", "HANGS", "ErrorText", "error_page"]


@dataclass(frozen=True, kw_only=True)
class ErrorText:
    """An error in words.

    Members
    -------
    sentence
        What has happened, for a user who sees nothing else.
    index
        What ERROR_INDEX names.
    bus
        What happens to memory transfers.
    remedy
        What to do.
    """

    sentence: str
    index: str
    bus: str
    remedy: str


_BEGIN = "0, BEGIN"
_FAILING = "the instruction"
_NOTHING = "only BEGIN has been read"
_ENDED = "bursts under way end, nothing new is asked for"
_OPEN = ("bursts under way end if memory answers; if it does not for TIMEOUT cycles,"
         " STATUS.late is set and the core stays silent until it does")
_REPACK = "lower the model again with software of this version"
_ALIVE = "check that memory answers at this address, and raise TIMEOUT if it is only slow"

#: Every error that there is.
ERRORS: dict[Any, ErrorText] = {
    Error.NONE: ErrorText(
        sentence="No error.", index="0", bus="all transfers have ended", remedy="nothing"),
    Error.BAD_MAGIC: ErrorText(
        sentence="There is no program at the model address.", index=_BEGIN, bus=_NOTHING,
        remedy="check MODEL_ADDR, and that the model is in memory and flushed from the caches"),
    Error.BAD_VERSION: ErrorText(
        sentence="The program is for another version of the instruction set.", index=_BEGIN,
        bus=_NOTHING, remedy=_REPACK),
    Error.BAD_OPCODE: ErrorText(
        sentence="The program has an unknown instruction, or runs on behind its last one.",
        index=_FAILING, bus=_ENDED, remedy=_REPACK),
    Error.BAD_FIELD: ErrorText(
        sentence="An instruction asks for what this configuration does not have.",
        index=_FAILING, bus=_ENDED,
        remedy="lower the model for the configuration that CONFIG and LIMITS show"),
    Error.BAD_ADDRESS: ErrorText(
        sentence="A transfer would leave the memory window that it was given, or is not aligned.",
        index="the instruction: BEGIN, LOAD or END", bus="the transfer is never begun; " + _ENDED,
        remedy="check the addresses, sizes and strides of model, frames and outputs"),
    Error.BUS_READ: ErrorText(
        sentence="Memory has answered a read with an error.",
        index="the instruction that was in execution", bus=_ENDED,
        remedy="check that model and frames are in memory that the core may read"),
    Error.BUS_WRITE: ErrorText(
        sentence="Memory has answered a write with an error.",
        index="the instruction that was in execution", bus=_ENDED,
        remedy="check that outputs are in memory that the core may write"),
    Error.BAD_CHECKSUM: ErrorText(
        sentence="The program in memory is damaged: its checksum is wrong.", index=_BEGIN,
        bus=_ENDED, remedy="load the model again; flush the caches behind it"),
    Error.HANG_PROGRAM: ErrorText(
        sentence="Memory does not give the next instruction.",
        index="the instruction that does not come", bus=_OPEN, remedy=_ALIVE),
    Error.HANG_LOAD: ErrorText(
        sentence="Memory does not give the frame or the initial rows.", index="LOAD", bus=_OPEN,
        remedy=_ALIVE),
    Error.HANG_WEIGHT: ErrorText(
        sentence="Memory does not give weights, or the program has promised too few.",
        index="the pass that waits for them", bus=_OPEN,
        remedy=_ALIVE + "; else lower the model again"),
    Error.HANG_PASS: ErrorText(
        sentence="A pass waits for rows or operands that are never written, or for scales that do"
                 " not come.",
        index="the pass", bus=_OPEN,
        remedy="if the pass takes scales of columns but no weights, as for HANG_WEIGHT; else the"
               " core is damaged, load its bitstream again: no program that is accepted waits for"
               " ever for rows or operands"),
    Error.HANG_SELECTOR: ErrorText(
        sentence="A token selector waits for scores that no pass makes.",
        index="the instruction that waits for the selector", bus=_ENDED, remedy=_REPACK),
    Error.HANG_OUTPUT: ErrorText(
        sentence="Memory does not take the output.", index="END", bus=_OPEN, remedy=_ALIVE),
    Error.HANG_DRAIN: ErrorText(
        sentence="Memory has not ended a transfer that was under way at the end of the run.",
        index="0", bus=_OPEN,
        remedy="wait until STATUS is IDLE; if it never is, reset bus and core together"),
}

#: The error of a wait that never ends, by what the issue stage waits for.
HANGS: dict[Any, Any] = {
    Stall.BUSY: Error.HANG_PASS,
    Stall.WEIGHT: Error.HANG_WEIGHT,
    Stall.OPERAND: Error.HANG_PASS,
    Stall.ROW: Error.HANG_PASS,
    Stall.LOAD: Error.HANG_LOAD,
    Stall.PROGRAM: Error.HANG_PROGRAM,
    Stall.TILE: Error.HANG_PASS,
    Stall.DRAIN: Error.HANG_OUTPUT,
    Stall.SELECTOR: Error.HANG_SELECTOR,
}

_INTRODUCTION = """\
# Errors

<!-- Written by `python -m rtl.export docs errors.md` from rtl/errors.py: do not edit. -->

A run ends with `ap_done` in any case: by its last instruction, or with the first error. ERROR has
its code, ERROR_INDEX the index of an instruction in the program. After every error the next run
begins like any other; a soft reset is not needed, and does no harm.

**The bus.** A run that has failed asks memory for nothing more. An address that was offered stays
until it is taken, a burst of a write is completed with beats that write nothing, and every answer
is waited for: the core is reset only when no transfer is under way. If memory is silent for TIMEOUT
cycles meanwhile, `STATUS.late` is set and the run ends: with HANG_DRAIN, if there was no error
before. The core then remains in DRAIN, `ap_idle` is 0, and `ap_start` has no effect, until the
answers have come. SOFT_RESET, too, reads 1 until then.

**Waits.** A run in which no row is issued and no beat moves for TIMEOUT cycles ends with one of the
HANG codes, by what it waits for. The register can be set to the longest wait that is normal: of
memory for its answer, and for a selector, which takes the longer the more patches there are.
STALL_SELECTOR of a run that is right is the sum of the waits for selectors, so none of them is
longer.

**The checksum** is of all instructions, in the field `checksum` of BEGIN. The program is read once
for it, beside the tables; nothing that comes after the tables begins before it is found right. The
fields of BEGIN itself are judged before that, as they say where the program ends: if one of them is
damaged, the error may be BAD_MAGIC, BAD_VERSION, BAD_FIELD or BAD_ADDRESS at instruction 0, and not
BAD_CHECKSUM.

Words of 32 bits are polynomials over GF(2), and the sum is theirs times powers of x, modulo
{polynomial}: it finds every change within one word, and any two words that have changed places.
"""


def error_page() -> str:
    """Return the page of all errors, in Markdown."""
    powers = [32, *(i for i in reversed(range(32)) if CHECKSUM_POLYNOMIAL >> i & 1)]
    polynomial = " + ".join("1" if i == 0 else "x" if i == 1 else f"x^{i}" for i in powers)
    lines = [_INTRODUCTION.format(polynomial=polynomial), "## Codes", "",
             "| code | name | what has happened | ERROR_INDEX | the bus | what to do |",
             "|---|---|---|---|---|---|"]
    for error, text in ERRORS.items():
        lines.append(f"| {error.value} | {error.name} | {text.sentence} | {text.index} |"
                     f" {text.bus} | {text.remedy} |")
    return "\n".join(lines) + "\n"
