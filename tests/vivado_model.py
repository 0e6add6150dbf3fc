# SPDX-License-Identifier: BSD-2-Clause
"""Vivado as far as our scripts need it: Tcl with stubbed commands that refuse what Vivado would.

The stubs know the IPs of the block design by tables of their own, and the core by the component.xml
and the Verilog in the folder: nothing comes from the boards. As a command it is a ``vivado``:
``python -m tests.vivado_model -mode batch ... -source SCRIPT``.
"""

import os
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.vivado_design import BlockDesign
from tests.vivado_ips import Core, Refused

try:
    import tkinter
except ImportError:  # on some systems it is a package of its own
    tkinter = None

#: Marks tests that run Tcl.
needs_tcl = pytest.mark.skipif(
    tkinter is None, reason="NOT CHECKED: scripts for Vivado, Python has no tkinter"
                            " (python3-tk on Debian and Ubuntu)")

#: Parts, and board files by name: part, connections that may be made.
BOARD_FILES = {
    "xilinx.com:zcu102:part0:3.4": ("xczu9eg-ffvb1156-2-e", ()),
    "xilinx.com:zcu104:part0:1.1": ("xczu7ev-ffvc1156-2-e", ()),
    "xilinx.com:kv260_som:part0:1.4": (
        "xck26-sfvc784-2LV-c",
        ("som240_1_connector xilinx.com:kv260_carrier:som240_1_connector:1.3",)),
    "tul.com.tw:pynq-z2:part0:1.0": ("xc7z020clg400-1", ()),
    "xilinx.com:au250:part0:1.3": ("xcu250-figd2104-2L-e", ()),
}
PARTS = {part for part, _ in BOARD_FILES.values()}


def _verilog_ports(file: Path) -> set[str]:
    module = re.search(r"^module heatvit\((.*?)\);", file.read_text(), re.M | re.S)
    return set(re.findall(r"\w+", module[1]))


class Vivado(BlockDesign):
    """Tcl with the commands of Vivado; ``folder`` is what it is started in."""

    def __init__(self, folder: Path, slack: float = 0.25) -> None:
        super().__init__()
        self.folder = folder
        self.slack = slack
        self.tcl = tkinter.Tcl()
        self.calls: list[str] = []
        self.part = ""
        self.project: dict[str, object] = {}
        self.current: Core | None = None
        self.repositories: list[Path] = []
        self.sources: set[str] = set()
        self.runs: dict[str, str] = {}
        self.top = ""
        self.opened = ""
        self.synthesised = ""
        for name in dir(self):
            if name.startswith("do_"):
                self._command(name[3:].replace("__", "::"), getattr(self, name))
        self.tcl.createcommand("::exit", self._exit)

    # Tcl

    def _command(self, name: str, function: Callable[..., object]) -> None:
        # An error of a Python command loses its text on the way: it is passed by hand.
        def guarded(*words: object) -> tuple[str, object]:
            self.calls.append(name)
            try:
                result = function(*map(str, words))
            except (Refused, tkinter.TclError, TypeError, KeyError, ValueError, OSError) as error:
                return "1", f"{name}: {error}"
            return "0", "" if result is None else tuple(result) if isinstance(
                result, (list, tuple)) else str(result)

        python = f"::python::{name.replace('::', '__')}"
        self.tcl.eval("namespace eval ::python {}")
        self.tcl.createcommand(python, guarded)
        if "::" in name:
            self.tcl.eval(f"namespace eval ::{name.rpartition('::')[0]} {{}}")
        self.tcl.eval(f"proc ::{name} {{args}} {{ lassign [{python} {{*}}$args] bad text;"
                      " if {$bad} { error $text }; return $text }")

    def _exit(self, *status: str) -> str:
        raise Refused("exit is not for scripts that others source")

    def source(self, script: Path) -> None:
        """Run a script; Refused has what it ended with."""
        # "cd" of Tcl is that of this process.
        before = Path.cwd()
        try:
            self.tcl.eval(f"cd {{{self.folder}}}")
            self.tcl.eval(f"source {{{script}}}")
        except tkinter.TclError as error:
            raise Refused(str(error)) from None
        finally:
            os.chdir(before)

    def _words(self, text: str) -> list[str]:
        return [str(word) for word in self.tcl.splitlist(text)]

    @staticmethod
    def _options(words: tuple[str, ...], flags: str = "", values: str = "",
                 places: int | tuple[int, int] = 0) -> tuple[dict[str, str], list[str]]:
        """Return options and what is beside them; refuse what the command does not know."""
        found, rest, left = {}, [], list(words)
        while left:
            word = left.pop(0)
            name = word[1:]
            if word.startswith("-") and not re.fullmatch(r"-\d+", word):
                if name in flags.split():
                    found[name] = "1"
                elif name in values.split():
                    if not left:
                        raise Refused(f"option {word} has no value")
                    found[name] = left.pop(0)
                else:
                    raise Refused(f"unknown option {word}")
            else:
                rest.append(word)
        low, high = (places, places) if isinstance(places, int) else places
        if not low <= len(rest) <= high:
            raise Refused(f"{len(rest)} arguments, must be {low} to {high}: {rest}")
        return found, rest

    def _file(self, path: str) -> Path:
        file = Path(path) if Path(path).is_absolute() else self.folder / path
        if not file.exists():
            raise Refused(f"file {path} does not exist")
        return file.resolve()

    def _need(self, what: str, value: object) -> None:
        if not value:
            raise Refused(f"no {what} is open")

    # Project

    def do_version(self, *words: str) -> str:
        self._options(words, "short")
        return "2023.2"

    def do_create_project(self, *words: str) -> str:
        options, (name, folder) = self._options(words, "force", "part", 2)
        if options.get("part") not in PARTS:
            raise Refused(f"part {options.get('part')} is not known")
        self.part = options["part"]
        self.project = {"name": name, "folder": Path(folder)}
        Path(folder).mkdir(parents=True, exist_ok=True)
        return name

    def do_current_project(self, *words: str) -> str:
        self._options(words)
        self._need("project", self.project)
        return str(self.project["name"])

    def do_get_board_parts(self, *words: str) -> list[str]:
        _, (pattern,) = self._options(words, "quiet latest_file_version", "", 1)
        found = re.compile(re.escape(pattern).replace(r"\*", ".*"))
        return [name for name in BOARD_FILES if found.fullmatch(name)]

    def do_update_ip_catalog(self, *words: str) -> None:
        self._options(words, "rebuild")
        self.catalog = {}
        for repository in self.repositories:
            for component in repository.rglob("component.xml"):
                core = Core(component)
                self.catalog[core.vlnv] = core

    def do_get_filesets(self, *words: str) -> str:
        _, (name,) = self._options(words, "", "", 1)
        if name not in ("sources_1", "constrs_1"):
            raise Refused(f"no file set {name}")
        return name

    def do_current_fileset(self, *words: str) -> str:
        self._options(words)
        self._need("project", self.project)
        return "sources_1"

    def do_add_files(self, *words: str) -> None:
        options, (files,) = self._options(words, "norecurse", "fileset", 1)
        if options.get("fileset", "sources_1") not in ("sources_1", "constrs_1"):
            raise Refused(f"no file set {options['fileset']}")
        for name in self._words(files):
            file = self._file(name)
            self.sources.add(file.name)
            if file.suffix == ".xdc":
                self.constraints(file, set())

    def do_get_files(self, *words: str) -> str:
        _, (name,) = self._options(words, "", "", 1)
        if name != f"{self.design}.bd" or not self.saved:
            raise Refused(f"no file {name} in the project")
        return name

    def do_make_wrapper(self, *words: str) -> str:
        options, _ = self._options(words, "top", "files")
        if options.get("files") != f"{self.design}.bd" or "top" not in options:
            raise Refused("a wrapper is of the block design, with -top")
        path = Path(str(self.project["folder"])) / f"{self.design}_wrapper.v"
        path.write_text(f"module {self.design}_wrapper();\nendmodule\n")
        return str(path)

    def do_update_compile_order(self, *words: str) -> None:
        options, _ = self._options(words, "", "fileset")
        self.do_get_filesets(options["fileset"])

    # Properties

    def do_set_property(self, *words: str) -> None:
        options, rest = self._options(words, "dict", "", (2, 3))
        if "dict" in options:
            pairs, target = self._words(rest[0]), rest[1]
        else:
            pairs, target = [rest[0], rest[1]], rest[2]
        if len(pairs) % 2:
            raise Refused(f"{len(pairs)} words for names and values")
        for name, value in zip(pairs[::2], pairs[1::2], strict=True):
            self._set(target, name, value)

    def _set(self, target: str, name: str, value: str) -> None:
        if target == "current_design":
            if (name, value) != ("BITSTREAM.GENERAL.COMPRESS", "TRUE"):
                raise Refused(f"no property {name} of a design")
        elif target == self.project.get("name"):
            if name == "board_part":
                if value not in BOARD_FILES or BOARD_FILES[value][0] != self.part:
                    raise Refused(f"{value} is no board with {self.part}")
                self.board = value
            elif name == "board_connections":
                if value not in BOARD_FILES[self.board][1]:
                    raise Refused(f"{self.board} has no connections {value}")
            elif name == "ip_repo_paths":
                self.repositories = [self._file(path) for path in self._words(value)]
            else:
                raise Refused(f"no property {name} of a project")
        elif target == "sources_1" and name == "top":
            if f"{value}.v" not in self.sources:
                raise Refused(f"no module {value}")
            self.top = value
        elif target.startswith("/") and target[1:] in self.cells:
            cell = self.cells[target[1:]]
            if name.removeprefix("CONFIG.") not in cell.allowed or not name.startswith("CONFIG."):
                raise Refused(f"no property {name} of {cell.vlnv}")
            if not re.fullmatch(cell.allowed[name[7:]], value):
                raise Refused(f"{name} cannot be {value}")
            cell.values[name] = value
        else:
            raise Refused(f"no object {target} with a property {name}")

    def do_get_property(self, *words: str) -> str:
        _, (name, target) = self._options(words, "", "", 2)
        if target in self.runs:
            folder = Path(str(self.project["folder"])) / "heatvit.runs" / target
            known = {"PROGRESS": "100%", "STATUS": self.runs[target], "DIRECTORY": str(folder)}
        elif target == "path":
            known = {"SLACK": str(self.slack)}
        elif self._pin(target).kind == "clock":
            known = {"CONFIG.FREQ_HZ": str(self._clock_hz(target))}
        else:
            known = {}
        if name not in known:
            raise Refused(f"no property {name} of {target}")
        return known[name]

    def _clock_hz(self, pin: str) -> int:
        """Return the frequency of a clock: as the oscillator of the board has it, a bit less."""
        mhz, = (value for name, value in self._split(pin)[0].values.items()
                if name.endswith("FREQMHZ"))
        return round(float(mhz) * 999_990.03)

    # IP packager

    def do_ipx__open_core(self, *words: str) -> None:
        _, (path,) = self._options(words, "", "", 1)
        self._need("project", self.project)
        self.current = Core(self._file(path))

    def do_ipx__current_core(self, *words: str) -> str:
        self._options(words)
        self._need("core", self.current)
        return "component_1"

    def _core(self, words: tuple[str, ...]) -> Core:
        _, (name,) = self._options(words, "", "", 1)
        if name != "component_1" or self.current is None:
            raise Refused(f"no core {name}")
        return self.current

    def do_ipx__update_checksums(self, *words: str) -> None:
        self._core(words)

    def do_ipx__save_core(self, *words: str) -> None:
        with self._core(words).component.open("a") as file:
            file.write("<!-- saved -->\n")

    def do_ipx__unload_core(self, *words: str) -> None:
        _, (path,) = self._options(words, "", "", 1)
        if self.current is None or self._file(path) != self.current.component.resolve():
            raise Refused(f"{path} is not the open core")
        self.current = None

    def do_ipx__check_integrity(self, *words: str) -> None:
        core = self._core(words)
        for file in core.files:
            if not file.is_file():
                raise Refused(f"file {file} of the core does not exist")
            if file.suffix == ".v" and (odd := core.ports ^ _verilog_ports(file)):
                raise Refused(f"port {min(odd)} is not in both, the core and its Verilog")
            if file.suffix == ".tcl":
                self._interface(file)

    def _interface(self, file: Path) -> None:
        """Run the page of the core."""
        self.tcl.eval("namespace eval ::ipgui {}; proc ::ipgui::add_param {instance flag name} {"
                      " if {$flag ne {-name} || $name ne {Component_Name}} { error $name } }")
        self.tcl.eval(f"source {{{file}}}; init_gui component_1")

    # Implementation

    def do_launch_runs(self, *words: str) -> None:
        options, (run,) = self._options(words, "", "jobs to_step", 1)
        if run == "synth_1":
            self._need("top", self.top)
        elif run != "impl_1" or "synth_1" not in self.runs:
            raise Refused(f"no run {run} that can be launched")
        if options.get("to_step", "write_bitstream") != "write_bitstream":
            raise Refused(f"no step {options['to_step']}")
        int(options.get("jobs", "1"))
        self.runs[run] = f"{run} Complete!"
        folder = Path(str(self.project["folder"]))
        if options.get("to_step"):
            (folder / "heatvit.runs" / run).mkdir(parents=True, exist_ok=True)
            (folder / "heatvit.runs" / run / f"{self.top}.bit").write_bytes(b"bit")
            handoff = folder / f"heatvit.gen/sources_1/bd/{self.design}/hw_handoff"
            handoff.mkdir(parents=True, exist_ok=True)
            (handoff / f"{self.design}.hwh").write_text("<hwh/>\n")

    def do_wait_on_run(self, *words: str) -> None:
        self.do_get_runs(*words)

    def do_get_runs(self, *words: str) -> str:
        _, (run,) = self._options(words, "", "", 1)
        if run not in self.runs:
            raise Refused(f"no run {run}")
        return run

    def do_open_run(self, *words: str) -> None:
        self.opened = self.do_get_runs(*words)

    def do_read_verilog(self, *words: str) -> None:
        _, (path,) = self._options(words, "", "", 1)
        self.sources.add(str(self._file(path)))

    def do_read_xdc(self, *words: str) -> None:
        _, (path,) = self._options(words, "", "mode", 1)
        verilog = next(Path(s) for s in self.sources if s.endswith(".v"))
        self.constraints(self._file(path), _verilog_ports(verilog))

    def do_synth_design(self, *words: str) -> None:
        options, _ = self._options(words, "", "top part mode")
        if options["part"] not in PARTS or options["top"] != "heatvit":
            raise Refused(f"no part {options['part']} or module {options['top']}")
        self.synthesised = options["top"]

    def _step(self, words: tuple[str, ...]) -> None:
        self._options(words)
        self._need("synthesised design", self.synthesised)

    def do_opt_design(self, *words: str) -> None:
        self._step(words)

    def do_place_design(self, *words: str) -> None:
        self._step(words)

    def do_phys_opt_design(self, *words: str) -> None:
        self._step(words)

    def do_route_design(self, *words: str) -> None:
        self._step(words)
        self.opened = "routed"

    def _written(self, path: str, text: str = "") -> None:
        file = Path(path) if Path(path).is_absolute() else self.folder / path
        if not file.parent.is_dir():
            raise Refused(f"the folder of {path} does not exist")
        file.write_text(text)

    def do_write_checkpoint(self, *words: str) -> None:
        _, (path,) = self._options(words, "force", "", 1)
        self._written(path)

    def do_report_timing_summary(self, *words: str) -> None:
        options, _ = self._options(words, "", "file")
        self._need("implementation", self.opened)
        self._written(options["file"])

    def do_report_utilization(self, *words: str) -> str:
        options, _ = self._options(words, "hierarchical return_string", "file")
        self._need("implementation", self.opened)
        text = "\n".join(f"| {name} | {used} | 0 | 0 | {have} | 1.00 |" for name, used, have in (
            ("CLB LUTs*", 1234, 274080), ("CLB Registers", 2345, 548160),
            ("Block RAM Tile", 77.5, 912), ("URAM", 0, 0), ("DSPs", 230, 2520)))
        if "file" in options:
            self._written(options["file"], text)
        return text if "return_string" in options else ""

    def do_get_timing_paths(self, *words: str) -> str:
        options, _ = self._options(words, "setup hold", "max_paths")
        self._need("implementation", self.opened)
        if ("setup" in options) == ("hold" in options):
            raise Refused("one of -setup and -hold")
        return "path"

    def do_write_hw_platform(self, *words: str) -> None:
        options, _ = self._options(words, "fixed include_bit force", "file")
        if "impl_1" not in self.runs:
            raise Refused("no implementation")
        self._written(options["file"])

    # Constraints

    def constraints(self, file: Path, ports: set[str]) -> None:
        """Run a constraint file, which knows few commands, and the ports of the top alone."""
        tcl = tkinter.Tcl()
        child = tcl.eval("interp create -safe")

        def known(*words: str) -> str:
            if words[0] == "current_design" and len(words) == 1:
                return "current_design"
            if words[0] == "set_property":
                self._set(words[3], words[1], words[2])
            elif words[0] == "get_ports" and words[1] in ports:
                return words[1]
            elif words[0] == "create_clock":
                self._options(words[1:], "", "name period", 1)
            else:
                raise Refused(f"{file.name}: {' '.join(words)}")
            return ""

        def guarded(*words: str) -> tuple[str, str]:
            try:
                return "0", known(*words)
            except (Refused, IndexError) as error:
                return "1", str(error)

        tcl.createcommand("known", guarded)
        for name in ("current_design", "set_property", "get_ports", "create_clock"):
            tcl.eval(f"proc run_{name} {{args}} {{ lassign [known {name} {{*}}$args] bad text;"
                     " if {$bad} { error $text }; return $text }; "
                     f"interp alias {child} {name} {{}} run_{name}")
        try:
            tcl.call("interp", "eval", child, file.read_text())
        except tkinter.TclError as error:
            raise Refused(str(error)) from None


def main(arguments: list[str], slack: float = 0.25) -> int:
    """Run a script in this folder, as ``vivado`` would."""
    script = arguments[arguments.index("-source") + 1]
    try:
        Vivado(Path.cwd(), slack).source(Path.cwd() / script)
    except Refused as error:
        print(f"{error}\n    while executing\n\"source {script}\"")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
