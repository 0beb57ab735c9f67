"""The arrangement of the code: which way imports point. Read from the source, nothing is run."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
TOPS = ("clusterpaths", "tasks", "flows", "deployments")  # each may import those before it, and itself


def modules() -> dict[str, Path]:
    """Name of each module -> its file; a package is named without __init__."""
    files = [path for top in TOPS for path in sorted((ROOT / top).rglob("*.py"))]
    return {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in files}


def imports(text: str, known: Iterable[str]) -> set[str]:
    """The modules of this project that a module's text imports, wherever in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
    return found & set(known)


def without_packages(found: set[str]) -> set[str]:
    """`from a.b import c` names the package a.b too; it counts only where nothing below it is meant."""
    return {name for name in found if not any(other.startswith(f"{name}.") for other in found)}


def graph() -> dict[str, set[str]]:
    """Module -> the modules that it imports."""
    known = modules()
    return {name: without_packages(imports(path.read_text(), known)) - {name} for name, path in known.items()}


def room(module: str) -> str:
    """The directory of a module, of two levels at most; a module of a package's root is a room by itself."""
    parts = module.split(".")
    return ".".join(parts[:2]) if len(parts) > 2 or (ROOT / Path(*parts)).is_dir() else module


def rooms(arrows: Mapping[str, set[str]]) -> dict[str, set[str]]:
    """As `graph`, between rooms."""
    joined: dict[str, set[str]] = {}
    for module, targets in arrows.items():
        joined.setdefault(room(module), set()).update({room(target) for target in targets} - {room(module)})
    return joined


def circle(arrows: Mapping[str, set[str]]) -> list[str]:
    """The modules of one circle, or none."""
    try:
        TopologicalSorter(arrows).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def test_no_module_imports_itself_by_way_of_others() -> None:
    assert circle(graph()) == []


def test_no_directory_imports_itself_by_way_of_others() -> None:
    assert circle(rooms(graph())) == []


def test_imports_point_from_flows_to_tasks_to_the_library() -> None:
    upward = [
        (module, target)
        for module, targets in graph().items()
        for target in targets
        if TOPS.index(module.split(".")[0]) < TOPS.index(target.split(".")[0])
    ]
    assert upward == []


@pytest.mark.parametrize(
    ("package", "allowed"),
    [
        ("prefect", ("tasks", "flows", "deployments")),
        ("prefect_dask", ("tasks",)),
        ("fastapi", ("clusterpaths.server", "deployments.path_service")),
        ("starlette", ("clusterpaths.server", "deployments.path_service")),
        ("obstore", ("clusterpaths.storage",)),
        ("mcp", ("clusterpaths.assistant",)),
    ],
)
def test_a_package_is_imported_only_where_it_belongs(package: str, allowed: tuple[str, ...]) -> None:
    importers = {
        name
        for name, path in modules().items()
        for node in ast.walk(ast.parse(path.read_text()))
        if (isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == package)
        or (isinstance(node, ast.Import) and any(alias.name.split(".")[0] == package for alias in node.names))
    }
    assert importers  # or this test would watch nothing
    assert {name for name in importers if not name.startswith(allowed)} == set()


def test_the_root_of_the_library_holds_what_all_share() -> None:
    root = {path.stem for path in (ROOT / "clusterpaths").glob("*.py")}
    assert root == {"__init__", "config", "errors", "records", "pipeline"}


def test_a_circle_would_be_found() -> None:
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}})
    assert rooms({"clusterpaths.cache.rows": {"clusterpaths.records"}}) == {
        "clusterpaths.cache": {"clusterpaths.records"}
    }
