# SPDX-License-Identifier: BSD-2-Clause
"""Changes of programs: random ones, and ones that know the fields of instructions."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache

import numpy as np
from amaranth.lib import data

from golden.program import LAYOUTS
from rtl.config import Config
from rtl.isa import (
    INSTRUCTION_BYTES,
    MANTISSA_BITS,
    Opcode,
    PolyRow,
    Rows,
    Table,
    begin_layout,
)
from sim.fuzz_subjects import Subject

__all__ = ["Change", "Draft", "longest_cycles", "number_changes", "random_changes"]

_BITS = 8 * INSTRUCTION_BYTES

#: Fields that are numbers to be computed with, whatever they are, and limits of their values.
_NUMBERS: dict[str, tuple[int, int]] = {
    "PASS.scale_m": (0, (1 << MANTISSA_BITS) - 1), "PASS.scale_s": (1, 47),
    "PASS.exp_m": (0, (1 << MANTISSA_BITS) - 1), "PASS.exp_s": (1, 47),
    "PASS.epsilon": (1, (1 << 32) - 1), "PASS.score_s": (1, 47),
}

#: Bits of the constant of a polynomial that may be any, without an overflow.
_CONSTANT_BITS = 8

#: Cycles of a tile beside those of its rows: its weights are loaded, and short ones are padded.
_TILE_CYCLES = 40
#: Cycles of an instruction beside those of its tiles.
_INSTRUCTION_CYCLES = 3000


@cache
def _fields(opcode: Opcode) -> dict[str, tuple[int, int]]:
    """Return the first bit and the width of the fields of an instruction that have a meaning."""
    found = {}
    for name, place in LAYOUTS[opcode]:
        if name.startswith(("pad", "spare")):
            continue
        if isinstance(place.shape, data.ArrayLayout):
            width = place.width // place.shape.length
            for i in range(place.shape.length):
                found[f"{name}[{i}]"] = place.offset + i * width, width
        else:
            found[name] = place.offset, place.width
    return found


def _opcode(word: int) -> Opcode | None:
    try:
        return Opcode(word & 0xFF)
    except ValueError:
        return None


@dataclass
class Draft:
    """A program that is being changed.

    Members
    -------
    subject
        What it was.
    words
        Its instructions, as numbers; at least one.
    rest
        The memory image, of which the instructions overwrite the beginning.
    """

    subject: Subject
    words: list[int] = field(init=False)
    rest: bytearray = field(init=False)

    def __post_init__(self) -> None:
        self.rest = bytearray(self.subject.program.image)
        size = INSTRUCTION_BYTES * len(self.subject.program.instructions)
        self.words = [int.from_bytes(self.rest[at:at + INSTRUCTION_BYTES], "little")
                      for at in range(0, size, INSTRUCTION_BYTES)]

    def place(self, index: int) -> int:
        """Return an index that is one of an instruction."""
        return index % len(self.words)

    def count(self, step: int) -> None:
        """Have BEGIN say that there are so many more instructions."""
        place = begin_layout["instructions"]
        old = self.words[0] >> place.offset & ((1 << place.width) - 1)
        self.set(0, place.offset, place.width, old + step)

    def set(self, index: int, first: int, width: int, value: int) -> None:
        """Change some bits of an instruction."""
        mask = (1 << width) - 1
        self.words[index] = self.words[index] & ~(mask << first) | (value & mask) << first

    def image(self) -> bytes:
        """Return the memory image, without a new checksum."""
        program = b"".join(word.to_bytes(INSTRUCTION_BYTES, "little") for word in self.words)
        return (program + bytes(self.rest[len(program):]))[:len(self.rest)]


@dataclass(frozen=True)
class Change:
    """One change of a program. A change fits any program: indices are taken modulo its length.

    Members
    -------
    kind
        ``field``: of instruction ``index`` becomes ``value``; ``bits`` of it are turned, those of
        the number ``value``; ``swap`` with instruction ``value``; ``copy`` to before instruction
        ``value``; ``remove``; ``replace`` by the instruction ``value``, a number of 512 bits;
        ``insert`` it before; ``byte``: that at ``index`` of the image behind the program
        becomes ``value``.
    index, value
        What they are of each kind.
    name
        Of the field.
    """

    kind: str
    index: int
    value: int = 0
    name: str = ""

    def apply(self, draft: Draft) -> None:
        """Make the change."""
        words, at = draft.words, draft.place(self.index)
        if self.kind == "field":
            # The opcode may be another one by now: the place in the instruction counts.
            first, width = _PLACES[self.name]
            draft.set(at, first, width, self.value)
        elif self.kind == "bits":
            words[at] ^= self.value
        elif self.kind == "swap":
            to = draft.place(self.value)
            words[at], words[to] = words[to], words[at]
        elif self.kind in ("copy", "insert"):
            word = words[at] if self.kind == "copy" else self.value
            words.insert(draft.place(self.value) if self.kind == "copy" else at, word)
            draft.count(1)
        elif self.kind == "remove":
            if len(words) > 1:
                del words[at]
                draft.count(-1)
        elif self.kind == "replace":
            words[at] = self.value
        else:
            start = INSTRUCTION_BYTES * len(draft.subject.program.instructions)
            draft.rest[start + self.index % (len(draft.rest) - start)] = self.value

    def __str__(self) -> str:
        what = {"field": f"{self.name} = {self.value:#x}", "bits": f"turn bits {self.value:#x}",
                "swap": f"swap with {self.value}", "copy": f"copy to {self.value}",
                "replace": f"is {self.value:#x}", "insert": f"before it {self.value:#x}",
                "byte": f"is {self.value:#x}"}
        return (f"{'byte' if self.kind == 'byte' else 'instruction'} {self.index}:"
                f" {what.get(self.kind, self.kind)}")


#: Where a field is, by opcode and name.
_PLACES = {f"{Opcode(opcode).name}.{name}": place for opcode in LAYOUTS
           for name, place in _fields(opcode).items()}


def longest_cycles(image: bytes, config: Config) -> int:
    """Return more cycles than the instructions of a program take, if nothing hangs."""
    total = 0
    for at in range(0, len(image) - INSTRUCTION_BYTES + 1, INSTRUCTION_BYTES):
        word = int.from_bytes(image[at:at + INSTRUCTION_BYTES], "little")
        if at == 0:
            begin = begin_layout.from_bits(word)
        elif at // INSTRUCTION_BYTES >= begin.instructions:
            break
        total += _INSTRUCTION_CYCLES
        if _opcode(word) != Opcode.PASS:
            continue

        def value(name: str, word: int = word) -> int:
            first, width = _PLACES[f"PASS.{name}"]
            return word >> first & ((1 << width) - 1)

        rows = (value("row_count") if Rows(value("rows_from") % len(Rows)) == Rows.COUNT
                else config.pass_rows)
        columns = (-(-config.pass_rows // config.columns) if value("columns_from_tokens")
                   else value("column_tiles"))
        depth = (-(-config.pass_rows // config.rows) if value("k_from_tokens")
                 else value("k_tiles"))
        total += columns * depth * (rows + _TILE_CYCLES)
    return total


def _value(random: np.random.Generator, old: int, width: int) -> int:
    """Return a value for a field: at its limits, beside the old one, or any."""
    top = (1 << width) - 1

    def any_value(bits: int) -> int:
        return int.from_bytes(random.bytes(-(-bits // 8)), "little") & ((1 << bits) - 1)

    kind = int(random.integers(8))
    return (0, top, old + 1, old - 1, old ^ 1 << int(random.integers(width)),
            any_value(min(width, 4)), any_value(min(width, 10)), any_value(width))[kind] & top


def _instruction(random: np.random.Generator) -> int:
    """Return a random instruction, most often one with an opcode."""
    word = int.from_bytes(random.bytes(INSTRUCTION_BYTES), "little")
    if random.random() < 0.9:
        word = word & ~0xFF | int(random.integers(1, 1 + len(Opcode)))
    if random.random() < 0.5:
        # Few of its bits are ones: then more of its fields are within their limits.
        word &= int.from_bytes(random.bytes(INSTRUCTION_BYTES), "little") | 0xFF
        word &= int.from_bytes(random.bytes(INSTRUCTION_BYTES), "little") | 0xFF
    return word


def _field_change(random: np.random.Generator, subject: Subject, index: int) -> Change:
    instruction = subject.program.instructions[index]
    opcode = Opcode(instruction.opcode)
    fields = _fields(opcode)
    name = str(random.choice(list(fields)))
    first, width = fields[name]
    old = instruction.as_bits() >> first & ((1 << width) - 1)
    return Change("field", index, _value(random, old, width), f"{opcode.name}.{name}")


def _change(random: np.random.Generator, subject: Subject, others: Sequence[Subject]) -> Change:
    instructions = subject.program.instructions
    index = int(random.integers(len(instructions)))
    kind = str(random.choice(
        ["field", "pass", "begin", "bits", "swap", "copy", "remove", "replace", "insert", "other",
         "byte"], p=[.26, .2, .06, .1, .06, .06, .06, .05, .04, .05, .06]))
    if kind == "field":
        return _field_change(random, subject, index)
    if kind in ("pass", "begin"):
        wanted = Opcode.PASS if kind == "pass" else Opcode.BEGIN
        indices = [i for i, fields in enumerate(instructions) if fields.opcode == wanted]
        return _field_change(random, subject, int(random.choice(indices)))
    if kind == "bits":
        turned = 0
        for _ in range(int(random.integers(1, 5))):
            turned ^= 1 << int(random.integers(_BITS))
        return Change("bits", index, turned)
    if kind in ("swap", "copy"):
        return Change(kind, index, int(random.integers(len(instructions))))
    if kind in ("replace", "insert"):
        return Change(kind, index, _instruction(random))
    if kind == "other":
        other = others[int(random.integers(len(others)))].program.instructions
        return Change("insert", index, other[int(random.integers(1, len(other)))].as_bits())
    if kind == "byte":
        return Change("byte", int(random.integers(1 << 20)), int(random.integers(256)))
    return Change("remove", index)


def _noise(random: np.random.Generator, length: int) -> Iterator[Change]:
    """Random instructions in place of all from one on, or of nearly all."""
    start = int(random.integers(length))
    for index in range(start, length):
        yield Change("replace", index, _instruction(random))


def number_changes(random: np.random.Generator, subject: Subject) -> tuple[Change, ...]:
    """Return changes of numbers that a program computes with: the result is defined, if there is
    no overflow."""
    instructions, changes = subject.program.instructions, []
    indices = [i for i, fields in enumerate(instructions) if fields.opcode == Opcode.PASS
               or (fields.opcode == Opcode.TABLE and fields.table != Table.LIST)]
    for _ in range(int(random.integers(1, 4))):
        index = int(random.choice(indices))
        is_table = instructions[index].opcode == Opcode.TABLE
        name = (f"TABLE.rows[{random.integers(instructions[index].count)}]" if is_table
                else str(random.choice(list(_NUMBERS))))
        first, width = _PLACES[name]
        value = old = instructions[index].as_bits() >> first & ((1 << width) - 1)
        if is_table:
            value ^= int(random.integers(1 << _CONSTANT_BITS)) << PolyRow["c0"].offset
        else:
            low, high = _NUMBERS[name]
            value = min(high, max(low, _value(random, old, width)))
        changes.append(Change("field", index, value, name))
    for _ in range(int(random.integers(8))):
        # No weight is -128.
        value = int(random.integers(255))
        changes.append(Change("byte", int(random.integers(1 << 20)), value + (value >= 128)))
    return tuple(changes)


def random_changes(random: np.random.Generator, subject: Subject,
                   others: Sequence[Subject]) -> tuple[Change, ...]:
    """Return changes of a program, most often one to three.

    Parameters
    ----------
    random
        Where chance comes from.
    subject
        The program.
    others
        Of these, instructions are taken over.
    """
    if random.random() < 0.04:
        return tuple(_noise(random, len(subject.program.instructions)))
    count = int(random.choice([1, 2, 3, 8], p=[.5, .25, .15, .1]))
    return tuple(_change(random, subject, others) for _ in range(count))
