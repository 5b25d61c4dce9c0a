"""What holds of the code as a whole: floors, cycles, and how functions are called.

Floors and their order are those of `docs/design.md`. A package's modules may import from its own floor
and from lower ones; capabilities stand side by side and never import each other.
"""

import ast
from collections import defaultdict
from pathlib import Path

import pytest

import sparing

SOURCE = Path(sparing.__file__).parent
FLOORS = (
    # Each line may import from the lines above it, and packages of one line from each other without a cycle.
    {"errors", "version"},
    {"machine", "progress", "typing", "storage"},
    {"numerics", "kernels", "distributions", "blocks", "frontier", "metrics", "selection", "ids", "account"},
    {"budget", "outputs", "images", "data", "tables", "samples"},
    {"models", "batching", "serving", "report", "pages", "execution"},
    {"cache"},
    {"bounds", "offload", "refresh", "route"},
    {"evaluate"},
    {"cli"},
)
CAPABILITIES = {"bounds", "offload", "refresh", "route"}
MODULES = {
    ".".join(("sparing", *path.relative_to(SOURCE).with_suffix("").parts)).removesuffix(".__init__"): path
    for path in SOURCE.rglob("*.py")
}
TREES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in MODULES.items()}


def package_of(module):
    """The package of the first level, or the module that lies there."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else ""


def imports(module, tree):
    """Modules of ours that a module imports: at once, in a function, or for a type checker alone."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == "sparing":
                    yield alias.name
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "sparing":
            assert node.level == 0
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in MODULES else node.module


def cycles(graph):
    """The strongly connected parts of a graph that have more than one node."""
    reach = {}

    def reachable(start):
        if start not in reach:
            seen, todo = set(), [start]
            while todo:
                for other in graph.get(todo.pop(), ()):
                    if other not in seen:
                        seen.add(other)
                        todo.append(other)
            reach[start] = seen
        return reach[start]

    found = {
        frozenset({other for other in reachable(node) if node in reachable(other)} | {node})
        for node in graph
        if node in reachable(node)
    }
    return sorted(sorted(part) for part in found)


def test_cycles_are_found():
    assert cycles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"a"}}) == [["b", "c"]]
    assert cycles({"a": {"b"}, "b": {"c"}, "c": set()}) == []


def test_every_package_has_a_floor():
    placed = [name for floor in FLOORS for name in floor]
    assert len(placed) == len(set(placed))
    assert {package_of(module) for module in MODULES} - {""} <= set(placed)


def test_no_file_imports_from_a_higher_floor():
    floor_of = {name: number for number, floor in enumerate(FLOORS) for name in floor}
    wrong = []
    for module, tree in TREES.items():
        mine = package_of(module)
        if not mine:  # the public names, loaded when they are first used
            continue
        for imported in imports(module, tree):
            theirs = package_of(imported)
            if theirs and (
                floor_of[theirs] > floor_of[mine] or (theirs != mine and {theirs, mine} <= CAPABILITIES)
            ):
                wrong.append(f"{module} imports {imported}")
    assert not wrong


def test_no_module_imports_itself_by_way_of_others():
    graph = {module: set(imports(module, tree)) - {module} for module, tree in TREES.items()}
    assert cycles(graph) == []


def test_no_package_imports_itself_by_way_of_others():
    graph = defaultdict(set)
    for module, tree in TREES.items():
        if mine := package_of(module):
            graph[mine] |= {package_of(other) for other in imports(module, tree)} - {mine, ""}
    assert cycles(graph) == []


def functions(tree):
    return [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]


def test_parameter_lists_stay_readable():
    wide = []
    for module, tree in TREES.items():
        if package_of(module) == "cli":
            continue
        for function in functions(tree):
            a = function.args
            count = len(a.posonlyargs + a.args + a.kwonlyargs)
            if count > 12:
                wide.append(f"{module}.{function.name}: {count}")
    assert not wide


@pytest.mark.parametrize("module", sorted(m for m in MODULES if package_of(m) and package_of(m) != "cli"))
def test_nobody_imports_the_command_line(module):
    assert not [name for name in imports(module, TREES[module]) if package_of(name) == "cli"]


def classes(tree):
    return [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]


def aliases():
    """Names that functions of ours are imported under."""
    return {
        alias.asname
        for tree in TREES.values()
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("sparing")
        for alias in node.names
        if alias.asname
    }


def test_no_call_of_ours_passes_six_positional_arguments():
    ours = {node.name for tree in TREES.values() for node in [*functions(tree), *classes(tree)]} | aliases()
    long = []
    for module, tree in TREES.items():
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call) or len(node.args) < 6:
                continue
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if called in ours or called == "cls":
                long.append(f"{MODULES[module].name}:{node.lineno} {called}: {len(node.args)}")
    assert not long


def test_no_function_shares_the_name_of_its_module():
    shared = []
    for module, tree in TREES.items():
        if package_of(module) == "cli":  # a verb of the command line is a function in the file of that verb
            continue
        name = module.rsplit(".", 1)[-1]
        shared += [module for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == name]
    assert not shared
