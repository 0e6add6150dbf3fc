# SPDX-License-Identifier: BSD-2-Clause
"""What drivers must know beside the registers, defined once: model files, errors, numbers.

``interface_header`` is for the driver in C, ``interface`` for the one in Python.
``python -m platforms.driver_interface`` brings the tables of docs/drivers.md up to date.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from golden.cli import exit_status
from golden.pages import check_section, table, write_section
from rtl import isa
from rtl.config import Config
from rtl.errors import ERRORS
from rtl.export import text_function
from rtl.logits import OUTPUT_TOP_BYTES
from rtl.registers import DROPPED_BITS, DROPPED_ROWS, REGISTERS, constants

__all__ = ["ALIGN", "DRIVER_ERRORS", "DriverError", "FIELDS", "FORMAT", "HEADER_BYTES", "MAGIC",
           "NAME_BYTES", "errors_table", "fields_table", "identity", "interface",
           "interface_header", "main"]

#: Where the tables for people are.
_PAGE = Path(__file__).parent.parent / "docs" / "drivers.md"

#: "HVTD", little endian.
MAGIC = 0x44545648
FORMAT = 1
#: Bytes of the header, and what all parts of a file are aligned to, and in memory the model, the
#: frames and every output: a page.
HEADER_BYTES = ALIGN = 4096
#: In memory frames begin at multiples of this: cache lines and beats of any port.
_FRAME_ALIGN = 128
#: Bytes of the name, UTF-8 padded with zeros, which follows the fields.
NAME_BYTES = 64

#: Words of the header of a model file, 32 bits each, and what they hold.
FIELDS: dict[str, str] = {
    "magic": f"{MAGIC:#x}, the letters HVTD",
    "format": f"version of this layout, {FORMAT}",
    "header_crc": "CRC-32 of the header behind this word",
    "body_crc": "CRC-32 of the file behind the header",
    "file_bytes": "bytes of the file",
    "version": "register VERSION of the core that it is for",
    "config": "its register CONFIG",
    "limits0": "its register LIMITS0",
    "limits1": "its register LIMITS1",
    "limits2": "its register LIMITS2; the depth of the weight FIFO may be another",
    "limits3": "its register LIMITS3",
    "tokens": "tokens of an image at the start",
    "width": "channels",
    "hidden": "hidden channels of the MLP",
    "patch": "bytes of a patch in its buffer",
    "classes": "logits",
    "special": "tokens before the first patch",
    "patches": "patches of an image",
    "selectors": "token selectors",
    "images": "images in a round",
    "row_step": "rows of the residual from even to odd rounds",
    "first_row0": "row of the first token of image 0 of a round",
    "first_row1": "of image 1",
    "first_row2": "of image 2",
    "first_row3": "of image 3",
    "image_size": "pixels of a side of a frame",
    "frame_bytes": "bytes of a frame: lines of RGB pixels without gaps",
    "output_bytes": "bytes of an output",
    "logit_shift": "the real value of a logit is it times 2 to the power of minus this (signed)",
    "model_offset": "where in the file the memory image of program and weights is",
    "model_bytes": "its bytes",
    "sample_offset": "where the frame of the self-test is",
    "expected_offset": "where its answer is: logits, top class, tokens that are left, 32 bits each",
}


@dataclass(frozen=True)
class DriverError:
    """An error that a driver finds: its code, and its sentence, which numbers may follow."""

    code: int
    sentence: str


#: Errors of drivers, by name. Those of the core are below 256: ``rtl.isa.Error``.
DRIVER_ERRORS: dict[str, DriverError] = {name: DriverError(256 + i, sentence) for i, (
    name, sentence) in enumerate((
        ("NO_CORE", "No core answers: is the bitstream loaded, the clock running?"),
        ("VERSION", "The core has another version of the instruction set than the driver."),
        ("DEVICE", "A device file cannot be opened or mapped."),
        ("MEMORY", "The memory for model, frames and outputs is too small."),
        ("ALIGNMENT", f"The memory does not begin at a multiple of {ALIGN}."),
        ("NOT_A_MODEL", "This is no model file."),
        ("FORMAT", "The model file has another format than the driver."),
        ("TRUNCATED", "The model file is not as long as it must be."),
        ("CORRUPT", "The model file is corrupt: a checksum does not match."),
        ("MODEL_VERSION", "The model is for another version of the instruction set."),
        ("MODEL_LIMIT", "The model is too large for the core."),
        ("MODEL_CONFIG", "The model was made for another configuration of the core."),
        ("NO_MODEL", "No model is loaded."),
        ("IMAGES", "So many images cannot be run."),
        ("ARGUMENT", "There is no such image or selector."),
        ("BUSY", "The core is at work, or waits for memory: wait for it, or reset it."),
        ("NOT_RUNNING", "No run has been started."),
        ("TIMEOUT", "The run has not ended in time and goes on: wait again, or reset the core."),
        ("INTERRUPT", "The run has ended, but no interrupt came: is it connected?"),
        ("RESET", "The core cannot be reset as memory does not answer it: reset the whole bus."),
        ("SELF_TEST", "The answer to the sample is not the expected one."),
        ("NO_ANSWER", ("There is no answer: no run has ended since the model was loaded or the"
                       " core was reset, or the last one ended with an error.")),
    ))}

#: Registers that a model must be made for. What differs in ``weight_tiles`` changes no program.
_IDENTITY = {"version": "VERSION", "config": "CONFIG", "limits0": "LIMITS0",
             "limits1": "LIMITS1", "limits2": "LIMITS2", "limits3": "LIMITS3"}


def identity(config: Config) -> dict[str, int]:
    """Return the fields of the header that say which core a model is for."""
    values = constants(config)
    return {field: values[name] for field, name in _IDENTITY.items()}


def _numbers() -> dict[str, int]:
    """Return numbers of the hardware and of memory that are no addresses of registers."""
    return {"SEGMENTS": isa.SEGMENTS, "SELECTORS": isa.SELECTORS,
            "STALLS": len(isa.Stall.__members__),
            "DROPPED_ROWS": DROPPED_ROWS, "DROPPED_BITS": DROPPED_BITS,
            "PAGE_BYTES": ALIGN, "FRAME_ALIGN": _FRAME_ALIGN, "OUTPUT_TOP_BYTES": OUTPUT_TOP_BYTES,
            "FILE_MAGIC": MAGIC, "FILE_FORMAT": FORMAT, "FILE_HEADER_BYTES": HEADER_BYTES,
            "FILE_NAME_BYTES": NAME_BYTES}


def interface_header() -> str:
    """Return the header ``heatvit_interface.h`` of the driver in C."""
    lines = ["/* SPDX-License-Identifier: BSD-2-Clause */",
             "/* Model files and errors of the driver. Written by `python -m platforms.deploy`. */",
             "", "#ifndef HEATVIT_INTERFACE_H", "#define HEATVIT_INTERFACE_H", ""]
    lines += [f"#define HEATVIT_{name} {value:#x}u" if name == "FILE_MAGIC" else
              f"#define HEATVIT_{name} {value}u" for name, value in _numbers().items()]
    lines += ["", "/* Words of the header of a model file. */", "enum heatvit_model_field {"]
    lines += [f"    HEATVIT_MODEL_{name.upper()}, /* {text} */" for name, text in FIELDS.items()]
    lines += ["    HEATVIT_MODEL_FIELDS", "};", "", "/* Errors that the driver finds. */",
              "enum heatvit_driver_error {"]
    lines += [f"    HEATVIT_ERROR_{name} = {error.code}," for name, error in DRIVER_ERRORS.items()]
    lines += ["};", "", *text_function("heatvit_driver_error_text(int value)",
                                       {f"HEATVIT_ERROR_{name}": error.sentence
                                        for name, error in DRIVER_ERRORS.items()},
                                       "This is no code of an error."), "#endif", ""]
    return "\n".join(lines)


def interface() -> dict[str, Any]:
    """Return what the driver in Python reads from ``interface.json``."""
    return {
        "registers": {r.name: {"offset": r.offset, "words": len(r.words), "count": r.count,
                               "fields": {f.name: [f.low, f.mask] for f in r.fields}}
                      for r in REGISTERS},
        "numbers": {**_numbers(), "ISA_VERSION": isa.ISA_VERSION},
        "model": list(FIELDS),
        "stalls": list(isa.Stall.__members__),
        "errors": {str(code): {"name": name, "sentence": sentence}
                   for code, name, sentence in _errors()},
    }


def _errors() -> Iterator[tuple[int, str, str]]:
    for error, text in ERRORS.items():
        yield error.value, error.name, text.sentence
    for name, found in DRIVER_ERRORS.items():
        yield found.code, name, found.sentence


def errors_table() -> str:
    """Return the table of the errors that drivers find, for the documentation."""
    return table(("code", "name", "sentence"), [
        (error.code, name, error.sentence) for name, error in DRIVER_ERRORS.items()])


def fields_table() -> str:
    """Return the table of the header of a model file for the documentation."""
    fields = FIELDS | {"name": f"{NAME_BYTES} bytes of UTF-8, padded with zeros"}
    return table(("byte", "field", "meaning"), [
        (4 * i, f"`{name}`", text) for i, (name, text) in enumerate(fields.items())])


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``python -m platforms.driver_interface``: the tables into docs/drivers.md."""
    argparse.ArgumentParser(prog="python -m platforms.driver_interface",
                            description="Brings the tables of docs/drivers.md up to date.",
                            ).parse_args(arguments)

    def run() -> None:
        tables = {"errors": errors_table(), "fields": fields_table()}
        for name in tables:
            check_section(_PAGE, name)
        for name, text in tables.items():
            write_section(_PAGE, name, text)

    return exit_status("platforms.driver_interface", run)


if __name__ == "__main__":
    sys.exit(main())
