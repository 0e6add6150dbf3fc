# SPDX-License-Identifier: BSD-2-Clause
"""The register map of the control port, defined once for hardware, drivers and documentation.

The first four registers follow the control map of Vitis HLS, which drivers (PYNQ, XRT) know.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

from amaranth.utils import exact_log2

from rtl.config import Config
from rtl.isa import ISA_VERSION, SEGMENTS, SELECTORS, Error, Stall

__all__ = ["ADDRESS_BITS", "ARGUMENTS", "Access", "DROPPED_BITS", "DROPPED_ROWS", "Field",
           "READBACK", "REGISTERS", "Register", "RunState", "STATUS", "TIMEOUT_CYCLES",
           "WORD_ADDRESS_BITS", "WORD_BYTES", "constants", "readback_words", "register"]

#: Address bits of the control port: 4 KiB, the smallest segment of an address map.
ADDRESS_BITS = 12
#: Bytes of one word; wider registers are several words, the low one first.
WORD_BYTES = 4
#: Bits of the address of a word.
WORD_ADDRESS_BITS = ADDRESS_BITS - exact_log2(WORD_BYTES)
#: Rows of the residual in a word of the register DROPPED, and bits of each.
DROPPED_ROWS = 8
DROPPED_BITS = 8 * WORD_BYTES // DROPPED_ROWS
#: After a reset, 3.5 ms at 300 MHz: longer than any memory takes, shorter than anyone waits.
TIMEOUT_CYCLES = 1 << 20
#: Rows of the residual of the largest configuration.
_MAX_ROWS = SEGMENTS * 1024


class Access(Enum):
    """What a read and a write of a field do."""

    RW = "read and write"
    RO = "read only"
    SET = "write 1 to set, hardware clears"
    COR = "read only, cleared by reading"
    TOW = "write 1 to toggle"


class RunState(Enum):
    """State of the run controller, in the register STATUS."""

    IDLE = 0
    RESET = 1
    RUN = 2
    DRAIN = 3


@dataclass(frozen=True, kw_only=True)
class Field:
    """Bits ``low`` to ``low + width - 1`` of a register."""

    name: str
    low: int
    width: int
    access: Access
    description: str
    values: type[Enum] | None = None

    @property
    def mask(self) -> int:
        return ((1 << self.width) - 1) << self.low


@dataclass(frozen=True, kw_only=True)
class Register:
    """``width`` bits at the byte address ``offset``; a register of 64 bits is two words.

    An array of ``count`` registers is one Register. ``reset`` is its value after a reset, of those
    that hold what is written.
    """

    name: str
    offset: int
    description: str
    fields: tuple[Field, ...]
    width: int = 32
    count: int = 1
    reset: int = 0

    def __post_init__(self) -> None:
        if self.width not in (32, 64):
            raise ValueError(f"{self.name} has {self.width} bits, must have 32 or 64")
        if self.offset % (self.width // 8):
            raise ValueError(f"{self.name} is at {self.offset:#x}, must be at a multiple of"
                             f" {self.width // 8}")
        if self.words.stop > 1 << ADDRESS_BITS:
            raise ValueError(f"{self.name} ends at {self.words.stop:#x}, must end at"
                             f" {1 << ADDRESS_BITS:#x} or before")
        used = 0
        for field in self.fields:
            if used & field.mask or field.low + field.width > self.width:
                raise ValueError(f"field {field.name} of {self.name} takes bits {field.low} to"
                                 f" {field.low + field.width - 1}, must be free and below"
                                 f" {self.width}")
            used |= field.mask

    @property
    def words(self) -> range:
        """Byte addresses of the words."""
        return range(self.offset, self.offset + self.count * self.width // 8, WORD_BYTES)

    @property
    def port(self) -> str:
        """Name of the register's port in the hardware."""
        return self.name.lower()

    @property
    def access(self) -> Access | None:
        """Access of all fields where it is the same, else None."""
        kinds = {field.access for field in self.fields}
        return kinds.pop() if len(kinds) == 1 else None


def _whole(name: str, offset: int, access: Access, description: str, width: int = 32,
           values: type[Enum] | None = None, bits: int | None = None,
           reset: int = 0) -> Register:
    """Register of one field called ``value``, of ``bits`` bits where not the whole width."""
    field = Field(name="value", low=0, width=bits or width, access=access,
                  description=description, values=values)
    return Register(name=name, offset=offset, description=description, fields=(field,),
                    width=width, reset=reset)


def _fields(access: Access, *fields: tuple[str, int, int, str]) -> tuple[Field, ...]:
    return tuple(Field(name=name, low=low, width=width, access=access, description=description)
                 for name, low, width, description in fields)


def _registers() -> Iterator[Register]:
    rw, ro = Access.RW, Access.RO
    yield Register(
        name="CTRL", offset=0x00,
        description="Control. Auto restart (bit 7 of the HLS map) does not exist.",
        fields=(
            *_fields(Access.SET, ("ap_start", 0, 1, "Starts a run; reads 1 until the run ends.")),
            *_fields(Access.COR, ("ap_done", 1, 1, "A run has ended, with or without error.")),
            *_fields(ro, ("ap_idle", 2, 1, "No run, no reset in progress.")),
            *_fields(Access.COR, ("ap_ready", 3, 1, "As ap_done: the next run can be started."))))
    yield Register(
        name="GIE", offset=0x04, description="Global interrupt enable.",
        fields=_fields(rw, ("enable", 0, 1, "Enables the interrupt output.")))
    yield Register(
        name="IER", offset=0x08, description="Interrupt enable.",
        fields=_fields(rw, ("done", 0, 1, "ap_done sets its bit of ISR."),
                       ("ready", 1, 1, "ap_ready sets its bit of ISR.")))
    yield Register(
        name="ISR", offset=0x0C,
        description="Interrupt status. The output is high while an enabled bit is set.",
        fields=_fields(Access.TOW, ("done", 0, 1, "A run has ended."),
                       ("ready", 1, 1, "The next run can be started.")))

    # Arguments: writes during a run have no effect
    yield _whole("MODEL_ADDR", 0x10, rw, "Address of the model image, a multiple of 4096.", 64)
    yield _whole("FRAME_ADDR", 0x18, rw,
                 "Address of the first frame, a multiple of port_bytes.", 64)
    yield _whole("OUTPUT_ADDR", 0x20, rw, "Address of the first output, a multiple of 4096.", 64)
    yield _whole("MODEL_BYTES", 0x28, rw, "Bytes from MODEL_ADDR on that may be read.")
    yield _whole("FRAME_BYTES", 0x2C, rw,
                 "Bytes from FRAME_ADDR on that may be read: the frames, in whole beats.")
    yield _whole("OUTPUT_BYTES", 0x30, rw, "Bytes from OUTPUT_ADDR on that may be written.")
    yield Register(
        name="SOFT_RESET", offset=0x34,
        description="Ends a run without ap_done, once all bus transfers have completed.",
        fields=_fields(Access.SET, ("reset", 0, 1, "Reads 1 until the core is idle again.")))

    yield _whole("ROUNDS", 0x38, rw, "Rounds of the program, each an image or a batch; 0 is one.")
    yield _whole("FRAME_STRIDE", 0x3C, rw,
                 "Bytes from a frame to the next, a multiple of port_bytes.")

    # Identity
    yield _whole("VERSION", 0x40, ro, "Version of the instruction set (ISA_VERSION).")
    yield Register(
        name="CONFIG", offset=0x44, description="Size of the array and of the memory ports.",
        fields=_fields(ro, ("rows", 0, 8, "Rows of the array: input channels."),
                       ("columns", 8, 8, "Columns of the array: output channels."),
                       ("ports", 16, 8, "Memory ports."),
                       ("port_bytes", 24, 8, "Bytes of one beat of a port.")))
    yield Register(
        name="LIMITS0", offset=0x48, description="Largest model, first part.",
        fields=_fields(ro, ("max_tokens", 0, 16, "Tokens."), ("max_width", 16, 16, "Channels.")))
    yield Register(
        name="LIMITS1", offset=0x4C, description="Largest model, second part.",
        fields=_fields(ro, ("max_hidden", 0, 16, "Hidden channels of the MLP."),
                       ("max_patch", 16, 16, "Bytes of a patch.")))
    yield Register(
        name="LIMITS2", offset=0x50, description="Largest model, third part.",
        fields=_fields(ro, ("max_classes", 0, 16, "Classes."),
                       ("weight_tiles", 16, 16, "Depth of the weight FIFO in array tiles.")))

    yield _whole("OUTPUT_STRIDE", 0x54, rw, "Bytes from an output to the next, a multiple of 4096.")
    yield _whole("TIMEOUT", 0x58, rw, "Cycles without progress that end a run with an error.",
                 reset=TIMEOUT_CYCLES)
    yield Register(
        name="LIMITS3", offset=0x5C, description="Largest batch.",
        fields=_fields(ro, ("images", 0, 8, "Images in a round."),
                       ("max_rows", 16, 16, "Rows of a pass: tokens of all images of a round.")))

    # Status of the run, or of the last one; cleared by ap_start
    yield Register(
        name="STATUS", offset=0x60, description="State of the run controller.",
        fields=(Field(name="state", low=0, width=2, access=ro, values=RunState,
                      description="What it does."),
                *_fields(ro, ("late", 2, 1, "DRAIN: memory has not answered for TIMEOUT cycles."))))
    yield _whole("ERROR", 0x64, ro, "Error that ended the run.", values=Error, bits=8)
    yield _whole("ERROR_INDEX", 0x68, ro, "Index of the failing instruction in the program.")
    yield _whole("TOP_CLASS", 0x6C, ro, "Class of the largest logit of the last image.")
    yield _whole("TOKENS", 0x70, ro, "Tokens that were left of the last image.")
    yield _whole("BYTES_READ", 0x74, ro, "Bytes read from memory.")
    yield _whole("BYTES_WRITTEN", 0x78, ro, "Bytes written to memory, whole beats.")
    yield _whole("IMAGES_DONE", 0x7C, ro, "Images whose output is in memory.")
    yield _whole("CYCLES", 0x80, ro, "Cycles of the run; the sum of the STALL counters.", 64)
    for cause in Stall:
        yield _whole(f"STALL_{cause.name}", 0x88 + WORD_BYTES * cause.value, ro,
                     f"Cycles that the issue stage spent in {cause.name}.")

    # What the selectors of the last round did
    for index in range(SELECTORS):
        yield Register(
            name=f"SELECTOR_{index}", offset=0x100 + SEGMENTS * WORD_BYTES * index, count=SEGMENTS,
            description=f"What selector {index} left of each image of the last round; 0 if it has"
                        " not run.",
            fields=_fields(ro, ("patches", 0, 16, "Patches that it kept."),
                           ("tokens", 16, 16, "Tokens that were left, of all kinds.")))
    what = f"Four bits for each of {DROPPED_ROWS} rows: selector that dropped it, or {SELECTORS}."
    yield Register(name="DROPPED", offset=0x400, count=_MAX_ROWS // DROPPED_ROWS,
                   description=what, fields=_fields(ro, ("value", 0, 32, what)))


#: All registers, in the order of their addresses.
REGISTERS: tuple[Register, ...] = tuple(_registers())
#: Arguments of a run, which hold what was written.
ARGUMENTS = tuple(r for r in REGISTERS
                  if 0x10 <= r.offset < 0x60 and r.access == Access.RW)
#: Registers that show a run.
STATUS = tuple(r for r in REGISTERS if 0x60 <= r.offset < 0x100)
#: Registers that are read from the core, where there is a token selector; else they are zero.
READBACK = tuple(r for r in REGISTERS if r.offset >= 0x100)


def register(name: str) -> Register:
    """Return the register called ``name``."""
    for candidate in REGISTERS:
        if candidate.name == name:
            return candidate
    raise ValueError(f"no register is called {name!r}, there are"
                     f" {', '.join(r.name for r in REGISTERS)}")


def constants(config: Config) -> dict[str, int]:
    """Value of every register that is fixed by the configuration."""
    sizes = {"rows": config.rows, "columns": config.columns, "ports": config.ports,
             "port_bytes": config.port_bits // 8, "max_tokens": config.max_tokens,
             "max_width": config.max_width, "max_hidden": config.max_hidden,
             "max_patch": config.max_patch, "max_classes": config.max_classes,
             "weight_tiles": config.weight_tiles, "images": config.images,
             "max_rows": config.pass_rows}
    values = {"VERSION": ISA_VERSION}
    for name in ("CONFIG", "LIMITS0", "LIMITS1", "LIMITS2", "LIMITS3"):
        values[name] = sum(sizes[f.name] << f.low for f in register(name).fields)
    return values


def readback_words(config: Config) -> tuple[range, ...]:
    """Word addresses that are read from the core."""
    if not config.pruning:
        return ()
    counts, rows = (register(name).offset // WORD_BYTES for name in ("SELECTOR_0", "DROPPED"))
    return (range(counts, counts + SEGMENTS * SELECTORS),
            range(rows, rows + -(-config.residual_rows // DROPPED_ROWS)))
