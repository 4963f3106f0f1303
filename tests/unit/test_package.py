"""The package as programs see it: its names stay what they are, and importing it imports nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import llmc_build
from tests.conftest import Space

PACKAGE = Path(llmc_build.__file__).parent


def test_no_module_has_the_name_of_a_public_function() -> None:
    """An imported submodule becomes an attribute of its package, in place of whatever had the name."""
    modules = {path.stem for path in PACKAGE.iterdir()} - {"__init__"}
    assert not modules & set(llmc_build.__all__)


def test_the_functions_are_still_functions_after_a_build(space: Space) -> None:
    path = space.write("w.yaml", "name: w\nsteps:\n  - {name: a, command: echo a}\n")
    for expected in ("ran", "cached"):
        assert llmc_build.build([path], workspace=space.root).counts[expected] == 1
    assert llmc_build.load([path])[0].name == "w"


def test_importing_the_package_imports_nothing_heavy() -> None:
    code = "import sys, llmc_build; print(*sorted(m for m in sys.modules if '.' not in m))"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert not {"click", "diskcache", "jinja2", "networkx", "numpy", "rich", "yaml"} & set(loaded)
