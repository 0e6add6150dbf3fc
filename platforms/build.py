# SPDX-License-Identifier: BSD-2-Clause
"""A folder with all that makes a board classify images: ``python -m platforms.build zcu102``."""

import argparse
import hashlib
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from golden.cli import exit_status
from golden.files import make_new_folder
from golden.lower import check_sizes
from golden.model import MODELS, model_named
from platforms import ulx3s
from platforms.board_page import folder_page
from platforms.boards import Board
from platforms.boards_data import BOARDS, board_named
from platforms.deploy import deployment_of, write_deploy
from platforms.ipxact import NAME
from platforms.ipxact_check import check_component
from platforms.linux import linux_files
from platforms.vivado import core_files, vivado_files
from rtl.config import CONFIGS, Config, named
from rtl.isa import ISA_VERSION
from rtl.top import emit_verilog

__all__ = ["VivadoError", "board_config", "describe", "main", "run_vivado", "write_build"]

#: What begins the work of Vivado, in the folder.
_RUN = """\
#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# {what}: needs Vivado on PATH, leaves its results in output/.
set -e
cd "$(dirname "$0")"
command -v vivado > /dev/null || {{ echo "vivado is not on PATH: source its settings64.sh" >&2; \
exit 2; }}
mkdir -p output
exec vivado -mode batch -notrace -nojournal -log output/vivado.log -source vivado/{script}
"""

#: What Vivado says of a fault of its own, and of one that a script ends with.
_FAULT = re.compile(r"^(ERROR:.*|.+(?=\n    while executing))$", re.M)


class VivadoError(RuntimeError):
    """Vivado has not come to its end."""


def board_config(board: Board, name: str | None = None) -> Config:
    """Return the configuration called ``name``, or that of the board, in the form it takes.

    BoardError says what does not fit.
    """
    config = replace(named(name or board.config), multiplier=board.multiplier)
    board.check(config)
    return config


def _write(folder: Path, files: Mapping[str, str]) -> None:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8", newline="\n")


def write_build(board: Board, config: Config, verilog: str, folder: Path) -> None:
    """Write core, scripts, and the page that explains them, into a new folder.

    The same bytes for the same board and configuration.
    """
    scripts = vivado_files(board, config)
    core = folder / "ip" / NAME
    _write(core, core_files(config, verilog))
    check_component(core / "component.xml")
    _write(folder / "vivado", scripts)
    _write(folder / "linux", linux_files(board))
    what = "From the core to a bitstream" if board.system else "The core placed and routed"
    _write(folder, {
        "run.sh": _RUN.format(what=what, script=next(iter(scripts))),
        "README.md": folder_page(board, config)})
    (folder / "run.sh").chmod(0o755)


def describe(board: Board, config: Config, folder: Path) -> None:
    """Write ``build.json``: what was built, and the digest of every file that is there."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    text = json.dumps({
        "board": board.name, "part": board.part, "configuration": config.to_dict(),
        "clock_mhz": board.clock_mhz, "instruction_set_version": ISA_VERSION,
        "sha256": {path.relative_to(folder).as_posix():
                   hashlib.sha256(path.read_bytes()).hexdigest() for path in files}}, indent=1)
    _write(folder, {"build.json": text + "\n"})


def run_vivado(folder: Path) -> dict[str, Any]:
    """Run ``run.sh`` and return its report, also if timing is not met.

    VivadoError says why it has not come to its end, and where to look.
    """
    output = folder / "output"
    log, report = output / "run.log", output / "report.json"
    output.mkdir(exist_ok=True)
    report.unlink(missing_ok=True)
    with log.open("w") as said:
        status = subprocess.run(["./run.sh"], cwd=folder, stdout=said,
                                stderr=subprocess.STDOUT).returncode
    found: dict[str, Any] = {}
    try:
        found = json.loads(report.read_text())
    except (OSError, ValueError) as error:
        if not status:
            raise VivadoError(f"vivado has left no report: {error}") from None
    # The report is the last that scripts leave: all else is there if it says why they have failed.
    if status and found.get("timing_met") is not False:
        faults = _FAULT.findall(log.read_text(errors="replace"))
        raise VivadoError(f"vivado ended with status {status}:"
                          f" {faults[-1] if faults else 'no error'} (see {log})")
    return found


def _table(report: Mapping[str, Any]) -> Table:
    table = Table("", "used", "available", title=f"{report['part']}, Vivado {report['vivado']}")
    for name, row in report["utilisation"].items():
        table.add_row(name, str(row["used"]), str(row["available"]))
    table.add_row("setup slack", f"{report['setup_slack_ns']} ns", "")
    table.add_row("hold slack", f"{report['hold_slack_ns']} ns", "")
    return table


@contextmanager
def _step(console: Console, text: str) -> Iterator[None]:
    """Say what is being done, and that it is done."""
    with console.status(text):
        yield
    console.print(f"{text}: done", highlight=False)


def _build(options: argparse.Namespace, board: Board, console: Console) -> bool:
    """Write the folder, and run Vivado where it is; return False if timing is not met."""
    # Every fault that can be found is found before the work, not after.
    config = board_config(board, options.config)
    model = model_named(options.model or board.model)
    check_sizes(model, config)
    folder: Path = options.output
    make_new_folder(folder)

    with _step(console, f"Verilog of {config.name}, {config.multiplier}"):
        verilog = emit_verilog(config)
    with _step(console, "Core and scripts"):
        write_build(board, config, verilog, folder)
    if board.system:
        with _step(console, f"Drivers, and {model.name} with its self-test"):
            write_deploy(folder / "deploy", deployment_of(model.name, config))
    describe(board, config, folder)
    if shutil.which("vivado") is None:
        console.print(f"vivado is not on PATH: {folder} is ready, {folder / 'run.sh'} runs it",
                      highlight=False, soft_wrap=True)
        return True
    with _step(console, "Vivado (hours for large arrays)"):
        report = run_vivado(folder)
    console.print(_table(report))
    console.print(f"{folder / 'output' / 'report.json'}: timing and utilisation", highlight=False,
                  soft_wrap=True)
    if not report["timing_met"]:
        print(f"platforms.build: timing is not met at {report['clock_mhz']} MHz,"
              f" {folder / 'README.md'} says where a lower clock is set", file=sys.stderr)
    return bool(report["timing_met"])


def _open_flow(options: argparse.Namespace, board: Board) -> int:
    """Build with open tools, which need no folder for others to go on from."""
    model, config = options.model or board.model, options.config or board.config

    def check() -> None:
        board_config(board, config)
        ulx3s.prepare(model, config=config)
        make_new_folder(options.output)

    status = exit_status("platforms.build", check)
    return status or ulx3s.main(["--model", model, "--config", config, "-o", str(options.output)])


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    parser = argparse.ArgumentParser(prog="python -m platforms.build", description=__doc__)
    parser.add_argument("board", help=f"one of {', '.join(BOARDS)}")
    parser.add_argument("--model", help="network of the self-test in deploy/: one of"
                        f" {', '.join(MODELS)}; weights are those of the project for scenes, else"
                        " synthetic, platforms.deploy takes others; for ulx3s a packed model, as of"
                        " platforms.ulx3s (default: that of the board)")
    parser.add_argument("--config", help=f"one of {', '.join(CONFIGS)}, or of them with another"
                        " array, as in zcu102-32x64 (default: that of the board)")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="DIR",
                        help="folder to write, a new or an empty one")
    options = parser.parse_args(arguments)
    if options.board == "ulx3s":
        return _open_flow(options, BOARDS["ulx3s"])
    return exit_status("platforms.build",
                       lambda: _build(options, board_named(options.board), Console()), VivadoError)


if __name__ == "__main__":
    sys.exit(main())
