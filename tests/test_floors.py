"""The floors of the house: a file imports only from floors below its own, no file imports itself by a detour."""

from __future__ import annotations

import ast
from pathlib import Path

import regard

SOURCE = Path(regard.__file__).parent

#: From the top down. What stands on one floor does not import one another, except inside of one folder.
FLOORS: tuple[tuple[str, ...], ...] = (
    ("__init__", "__main__"),
    ("cli",),
    ("serve", "bench"),
    ("training",),
    ("tasks",),
    ("look",),
    ("pipelines",),
    ("decoding",),
    ("evaluation",),
    ("interop",),
    ("accel",),
    ("directory",),
    ("model_folder",),
    ("data",),
    ("text",),
    ("models",),
    ("nn",),
    ("draw",),
    ("machine",),
    # The lowest floor: files that everyone may use, in an order of their own that has no circle.
    (
        "config",
        "schema",
        "files",
        "manifest",
        "weights",
        "header",
        "limits",
        "outputs",
        "regular",
        "surrogates",
        "terminal",
        "errors",
    ),
)
LOWEST = len(FLOORS) - 1


def imports() -> dict[str, set[str]]:
    """File → the files that it imports anywhere, inside of functions too; a package stands for its __init__."""
    files = {str(path.relative_to(SOURCE).with_suffix("")) for path in SOURCE.rglob("*.py")}
    found: dict[str, set[str]] = {}
    for file in files:
        found[file] = set()
        for node in ast.walk(ast.parse((SOURCE / f"{file}.py").read_text(encoding="utf-8"))):
            names: list[str] = []
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "regard":
                names = [f"{node.module}.{alias.name}" for alias in node.names]
            elif isinstance(node, ast.Import):
                names = [alias.name for alias in node.names if alias.name.split(".")[0] == "regard"]
            for name in names:
                path = name.removeprefix("regard").strip(".").replace(".", "/")
                parent = path.rpartition("/")[0]
                options = (path, f"{path}/__init__", parent, f"{parent}/__init__")
                found[file].add(next((option for option in options if option in files), "__init__"))
        found[file] -= {file}
    return found


def floor_of(file: str) -> int:
    top = file.split("/")[0]
    return next(number for number, names in enumerate(FLOORS) if top in names)


def test_every_file_stands_on_a_floor() -> None:
    known = {name for names in FLOORS for name in names}
    assert {file.split("/")[0] for file in imports()} <= known | {"packaged"}


def test_imports_point_downwards() -> None:
    wrong = [
        f"{file} imports {other}"
        for file, others in sorted(imports().items())
        for other in sorted(others)
        if other != "__init__"
        and (floor_of(other), other.split("/")[0]) != (floor_of(file), file.split("/")[0])
        and (floor_of(other) < floor_of(file) or (floor_of(other) == floor_of(file) != LOWEST))
    ]
    assert not wrong


def test_no_file_imports_itself_by_a_detour() -> None:
    graph = {file: {other for other in others if other != "__init__"} for file, others in imports().items()}
    done: set[str] = set()

    def visit(file: str, path: tuple[str, ...]) -> None:
        assert file not in path, " → ".join((*path[path.index(file) :], file))
        if file not in done:
            for other in sorted(graph[file]):
                visit(other, (*path, file))
            done.add(file)

    for file in sorted(graph):
        visit(file, ())


def test_the_parts_import_nothing_else_of_regard() -> None:
    for file, others in imports().items():
        if file.startswith("nn/"):
            assert all(other.startswith("nn/") for other in others), file


def test_the_paper_does_not_know_what_makes_it_fast() -> None:
    for file, others in imports().items():
        if file.split("/")[0] in ("nn", "models"):
            assert not any(other.startswith("accel/") for other in others), file
