import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

import diffmem

ROOMS = [
    "data",
    "memorization",
    "models",
    "training",
    "sampling",
    "reports",
    "optimum",
    "executors",
    "attacks",
    "runs",
    "studies",
    "paper",
    "auditing",
    "cli",
]
GROUND_FLOOR = {
    "__init__",
    "console",
    "distributed",
    "environment",
    "errors",
    "files",
    "folder_lock",
    "interrupt",
    "progress",
    "settings",
    "text",
}
PACKAGE = Path(diffmem.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))


def name_of(path):
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts)


def imports_of(source, package):
    """Every module of diffmem that the source names in an import, wherever that stands; `package` resolves relative ones."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".")
            above = ".".join(parts[: len(parts) - node.level + 1]) if node.level else ""
            module = ".".join(part for part in (above, node.module) if part)
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)
        elif (
            isinstance(node, ast.Constant)
            and isinstance(node.value, str)
            and node.value.startswith("diffmem.")
        ):
            yield node.value.partition(":")[0]  # a command that is named to be imported when it is used


def parts_used(path):
    """The rooms and ground-floor modules that a module imports; `diffmem` itself counts as `__init__`."""
    package = ".".join(("diffmem", *path.relative_to(PACKAGE).parent.parts))
    known = {*ROOMS, *GROUND_FLOOR}
    used = set()
    for module in imports_of(path.read_text(), package):
        first, _, rest = module.partition(".")
        if first == "diffmem":
            part = rest.partition(".")[0]
            used.add(part if part in known else "__init__")
    return used


def test_relative_imports_and_imports_in_functions_are_seen():
    source = "def f():\n    from ..data import images\n    from . import b\n    import diffmem.cli.study\n"
    found = set(imports_of(source, "diffmem.models"))
    assert {"diffmem.data.images", "diffmem.models.b", "diffmem.cli.study"} <= found


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_room_imports_only_from_the_rooms_before_it_and_the_ground_floor(path):
    place = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    if place in ROOMS:
        allowed = {*ROOMS[: ROOMS.index(place) + 1], *GROUND_FLOOR}
    elif place == "__main__":
        allowed = {"cli", *GROUND_FLOOR}
    else:
        assert place in GROUND_FLOOR, f"{place} is neither a room nor on the ground floor"
        allowed = GROUND_FLOOR
    assert parts_used(path) <= allowed


def test_every_room_exists_and_says_what_it_is():
    for room in ROOMS:
        assert ast.get_docstring(ast.parse((PACKAGE / room / "__init__.py").read_text())), room


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_module_has_one_idea_says_it_and_lists_its_public_names(path):
    source = path.read_text()
    assert len(source.splitlines()) <= 400
    tree = ast.parse(source)
    assert ast.get_docstring(tree)
    if path.name != "__init__.py":
        assert any(isinstance(node, ast.Assign) and "__all__ =" in ast.unparse(node) for node in tree.body)


@pytest.mark.parametrize("module", ["diffmem", "diffmem.cli", "diffmem.__main__"])
def test_importing_the_command_line_is_light(module):
    code = f"import json, sys, {module}; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(json.loads(done.stdout))
    assert module in loaded
    assert not loaded & {"torch", "numpy", "scipy", "matplotlib", "sklearn", "PIL", "pydantic"}


def builds_a_console(source):
    """Whether a module makes a console of rich's, or prints with rich, past the one place that does."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in ("Console", "from_markup"):
            return True
        if isinstance(node, ast.ImportFrom) and node.module == "rich":
            return True
        if isinstance(node, ast.ImportFrom) and node.module in ("rich.prompt", "rich.markup"):
            return True
    return False


def test_a_module_that_builds_a_console_would_be_noticed():
    assert builds_a_console("from rich.console import Console\nConsole().print('x')")
    assert builds_a_console("import rich.console as c\nc.Console()")
    assert builds_a_console("from rich import print")
    assert not builds_a_console("from rich.table import Table\nTable()")


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_only_one_module_builds_consoles_so_that_text_is_never_markup(path):
    if name_of(path) != "console":
        assert not builds_a_console(path.read_text())
