"""The house: pure modules import nothing of the world, and no lower layer imports a higher one."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "llmc_build"

# Layers from the bottom; a module may import from its own layer and those before it.
LAYERS: list[set[str]] = [
    {"frozen"},
    {"model"},
    {"errors", "terminal", "collecting"},
    {"environment", "filters", "jsonpath"},
    {"placeholder"},
    {"template"},
    {"constrain"},
    {"workflow"},
    {"shellcode"},
    {"rules"},
    {"claims", "names", "resolve", "keys", "reach", "subgraph"},
    {"graph"},
    {"plan", "spent"},
    # ---- from here on, the world
    {"stopping", "config", "store", "execute", "llm", "snapshot"},
    {"reading", "inputs", "outputs", "valuefiles", "outside", "reads", "traces", "lanes"},
    {"report"},
    {"replies", "binding", "orders", "answers", "samples", "why", "binder", "record"},
    {"loop", "incremental"},
    {"ahead"},
    {"session", "doctor"},
    {"api"},
    {"cli", "quick", "__main__"},
]
PURE = set().union(*LAYERS[:13])
# Pure modules that live with the worldly ones they serve: the wire format of a protocol, chat templates.
PURE_WITHIN = {
    "llm.openai",
    "llm.patience",
    "llm.bodies",
    "llm.stream",
    "llm.chat",
    "snapshot.cuts",
    "incremental.joining",
}
WORLDLY = {
    "asyncio", "ctypes", "fcntl", "glob", "http", "io", "multiprocessing", "os", "pathlib", "random", "select",
    "selectors", "shutil", "signal", "socket", "sqlite3", "subprocess", "tempfile", "threading", "time",
    "urllib.request",
}  # fmt: skip


def top(module: str) -> str:
    """llmc_build.store.cas -> store; llmc_build -> ''."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else ""


def imports(path: Path) -> set[str]:
    """Every module that a file imports, anywhere in it but under TYPE_CHECKING."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            node.body = []
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            if node.module == "llmc_build":
                found.update(f"llmc_build.{alias.name}" for alias in node.names)
    return found


FILES = sorted(PACKAGE.rglob("*.py"))
RANK = {name: rank for rank, layer in enumerate(LAYERS) for name in layer}


def name_of(path: Path) -> str:
    relative = path.relative_to(PACKAGE)
    return relative.parts[0] if len(relative.parts) > 1 else relative.stem


def dotted(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts)


def test_every_module_has_its_layer() -> None:
    assert {name_of(path) for path in FILES} - {"__init__"} <= RANK.keys()


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_no_module_imports_a_higher_layer(path: Path) -> None:
    name = name_of(path)
    if name == "__init__":
        return
    for module in imports(path):
        if module.removeprefix("llmc_build.") in PURE_WITHIN:
            continue
        if module.startswith("llmc_build.") and top(module) in RANK:
            assert RANK[top(module)] <= RANK[name], f"{name} imports {module}"


@pytest.mark.parametrize(
    "path",
    [f for f in FILES if name_of(f) in PURE or dotted(f) in PURE_WITHIN],
    ids=lambda p: str(p.relative_to(PACKAGE)),
)
def test_a_pure_module_does_not_touch_the_world(path: Path) -> None:
    found = imports(path)
    assert (found | {module.split(".")[0] for module in found}) & WORLDLY == set()


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_every_module_says_what_it_owns_and_stays_small(path: Path) -> None:
    text = path.read_text()
    assert ast.get_docstring(ast.parse(text)) or not text.strip()
    assert text.count("\n") <= 420, "a longer file wants to be two"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_a_private_name_is_used_where_it_is_defined(path: Path) -> None:
    """What nobody uses any more goes; other files don't use it, since it is private."""
    text = path.read_text()
    found: set[str] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Store):
            found.add(node.id if isinstance(node, ast.Name) else node.attr)
    private = sorted(name for name in found if re.fullmatch("_[^_].*", name))
    assert [name for name in private if len(re.findall(rf"\b{name}\b", text)) == 1] == []


def test_networkx_is_used_by_the_graph_alone() -> None:
    users = [path.name for path in FILES if any(m.split(".")[0] == "networkx" for m in imports(path))]
    assert users == ["graph.py"]


def test_nothing_unpickles_and_nothing_evaluates_text() -> None:
    """Data is never code: neither a store that others can write to, nor a message, may run anything."""
    for path in FILES:
        assert not imports(path) & {"pickle", "marshal", "shelve", "dill"}, path
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id not in {"eval", "exec"}, f"{path}:{node.lineno}"
