import ast
import functools
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

import diffmem

ORDER = [
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
    "api",
    "cli",
]
"""A package imports only from those before it, and from the base layer."""

BESIDE = {"sampling": {"training"}, "auditing": {"executors", "runs", "studies", "paper"}}
"""What a package does not import though it comes before it."""

BASE = {path.stem for path in Path(diffmem.__file__).parent.glob("*.py")} - {"__init__", "__main__"}
PACKAGE = Path(diffmem.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))
DRAWS = {"matplotlib": set(), "jinja2": set(), "rich": {"progress", "console"}}
"""Libraries for what people look at, and where they are imported beside the reports and the command line."""

MOST_OF_THE_CODE = 0.15
MOST_PARAMETERS = 8


@functools.cache
def tree_of(path):
    """The syntax of a file."""
    return ast.parse(path.read_text())


@pytest.fixture(scope="module", autouse=True)
def forgotten():
    """The syntax of all files is a million objects: tests of other files do without."""
    yield
    tree_of.cache_clear()


def name_of(path):
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts)


def imports_of(tree, package, *, named=True):
    """Every module of diffmem that a source names in an import, wherever that stands; `package` resolves relative ones."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".")
            above = ".".join(parts[: len(parts) - node.level + 1]) if node.level else ""
            module = ".".join(part for part in (above, node.module) if part)
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)
        elif (
            named
            and isinstance(node, ast.Constant)
            and isinstance(node.value, str)
            and node.value.startswith("diffmem.")
        ):
            yield node.value.partition(":")[0]  # a command that is named to be imported when it is used


@functools.cache
def modules_used(path, *, named=True):
    """The modules of diffmem that a module imports, without the package's name."""
    package = ".".join(("diffmem", *path.relative_to(PACKAGE).parent.parts))
    found = {module.removeprefix("diffmem.") for module in imports_of(tree_of(path), package, named=named)}
    found &= KNOWN
    # `from package import module` uses the module, not the package's front door.
    return {one for one in found if not any(other.startswith(f"{one}.") for other in found)} - {
        module_of(path)
    }


def module_of(path):
    return name_of(path).removesuffix(".__init__")


KNOWN = {module_of(path) for path in MODULES}


def packages_used(path):
    return {module.partition(".")[0] for module in modules_used(path)}


def libraries_used(path):
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.partition(".")[0]


def is_for_reading(module):
    """Whether a module shows things to people: a report, the kit of reports, the command line, or the public API."""
    parts = module.split(".")
    return "report" in parts or parts[0] in ("reports", "cli")


def test_relative_imports_and_imports_in_functions_are_seen():
    source = "def f():\n    from ..data import images\n    from . import b\n    import diffmem.cli.study\n"
    found = set(imports_of(ast.parse(source), "diffmem.models"))
    assert {"diffmem.data.images", "diffmem.models.b", "diffmem.cli.study"} <= found


def allowed_for(path):
    """What a module may import: packages and files of the base layer."""
    package = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    if package in ORDER:
        return {*ORDER[: ORDER.index(package) + 1], *BASE} - BESIDE.get(package, set())
    return {*BASE, *(["cli"] if package == "__main__" else [])}


def test_a_package_imports_only_from_those_before_it_and_the_base_layer():
    # The public names of `diffmem` itself are imported when they are used.
    modules = [path for path in MODULES if path != PACKAGE / "__init__.py"]
    wrong = {name_of(path): packages_used(path) - allowed_for(path) for path in modules}
    assert {name: packages for name, packages in wrong.items() if packages} == {}


def test_every_package_has_a_place_in_the_order_and_says_what_it_is():
    assert {path.parent.name for path in PACKAGE.glob("*/__init__.py")} == set(ORDER)
    for package in PACKAGE.rglob("__init__.py"):
        assert ast.get_docstring(tree_of(package)), package


def circles(edges):
    """The groups of names that lead to each other; `edges` maps each to those that it leads to."""
    names = sorted({*edges, *(other for others in edges.values() for other in others)})
    number = {name: index for index, name in enumerate(names)}
    pairs = [(number[name], number[other]) for name, others in edges.items() for other in others]
    matrix = coo_array((np.ones(len(pairs)), tuple(np.array(pairs).T)), shape=(len(names),) * 2)
    _, group = connected_components(matrix, connection="strong")
    groups = [{name for name in names if group[number[name]] == one} for one in set(group)]
    return [each for each in groups if len(each) > 1]


def test_a_circle_is_seen():
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"a"}}) == [{"b", "c"}]


def test_no_files_import_each_other():
    assert circles({module_of(path): modules_used(path, named=False) for path in MODULES}) == []


def test_no_folders_import_each_other():
    # A package's front door and the folder around it are no circle: what lies within a folder is its own affair.
    edges = {}
    for path in MODULES:
        if path.name == "__init__.py":
            continue
        here = module_of(path).rpartition(".")[0]
        for other in modules_used(path):
            there = other if (PACKAGE / other.replace(".", "/")).is_dir() else other.rpartition(".")[0]
            if (
                there
                and here
                and not f"{here}.".startswith(f"{there}.")
                and not f"{there}.".startswith(f"{here}.")
            ):
                edges.setdefault(here, set()).add(there)
    assert circles(edges) == []


@pytest.mark.parametrize("library", DRAWS)
def test_only_reports_and_the_command_line_draw(library):
    users = {module_of(path) for path in MODULES if library in set(libraries_used(path))}
    assert {user for user in users if not is_for_reading(user)} <= DRAWS[library]


def test_only_reports_the_command_line_and_the_public_functions_use_reports():
    for path in MODULES:
        module = module_of(path)
        if not is_for_reading(module) and not module.startswith("api"):
            assert not {
                used for used in modules_used(path) if is_for_reading(used) and not used.startswith("cli")
            }, module


def parameters(function):
    given = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
    return len([one for one in given if one.arg not in ("self", "cls")])


def test_no_function_but_a_command_has_many_parameters():
    many = {
        f"{module_of(path)}.{node.name}"
        for path in MODULES
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and parameters(node) > MOST_PARAMETERS
    }
    assert {name for name in many if not name.startswith("cli.")} == set()


def test_no_folder_holds_too_much_of_the_code():
    lines = {path: len(path.read_text().splitlines()) for path in MODULES}
    folders = {path.parent for path in MODULES}
    held = {
        folder: sum(count for path, count in lines.items() if path.parent == folder) for folder in folders
    }
    most = MOST_OF_THE_CODE * sum(lines.values())
    assert {folder: count for folder, count in held.items() if count > most} == {}


def test_a_module_has_one_idea_says_it_and_lists_its_public_names():
    for path in MODULES:
        assert len(path.read_text().splitlines()) <= 400, path
        tree = tree_of(path)
        assert ast.get_docstring(tree), path
        names = [
            node for node in tree.body if isinstance(node, ast.Assign) and "__all__ =" in ast.unparse(node)
        ]
        assert names or path.name == "__init__.py", path


@pytest.mark.parametrize("module", ["diffmem", "diffmem.cli", "diffmem.__main__"])
def test_importing_the_command_line_is_light(module):
    code = f"import json, sys, {module}; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(json.loads(done.stdout))
    assert module in loaded
    assert not loaded & {"torch", "numpy", "scipy", "matplotlib", "sklearn", "PIL", "pydantic"}


def builds_a_console(tree):
    """Whether a module makes a console of rich's, or prints with rich, past the one place that does."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in ("Console", "from_markup"):
            return True
        if isinstance(node, ast.ImportFrom) and node.module == "rich":
            return True
        if isinstance(node, ast.ImportFrom) and node.module in ("rich.prompt", "rich.markup"):
            return True
    return False


def test_a_module_that_builds_a_console_would_be_noticed():
    assert builds_a_console(ast.parse("from rich.console import Console\nConsole().print('x')"))
    assert builds_a_console(ast.parse("import rich.console as c\nc.Console()"))
    assert builds_a_console(ast.parse("from rich import print"))
    assert not builds_a_console(ast.parse("from rich.table import Table\nTable()"))


def test_only_one_module_builds_consoles_so_that_text_is_never_markup():
    builders = {name_of(path) for path in MODULES if builds_a_console(tree_of(path))}
    assert builders <= {"console"}
