"""The house of `generation`: few rooms, few arrows between them, and none that leads back.

`python -m tests.unit.test_house` prints what was counted.
"""

import ast
import re
import sys
from collections import defaultdict
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
APP = REPOSITORY / "generation"

Graph = dict[str, set[str]]


@cache
def modules() -> dict[str, ast.Module]:
    """The syntax tree of each module of the app, migrations left out."""
    found = {}
    for path in sorted(APP.rglob("*.py")):
        if "migrations" not in path.parts:
            name = ".".join(path.relative_to(REPOSITORY).with_suffix("").parts).removesuffix(".__init__")
            found[name] = ast.parse(path.read_text())
    return found


def named(tree: ast.Module) -> set[str]:
    """What a module imports, wherever in it, and what it names in dotted text."""
    names = set()
    for node in ast.walk(tree):
        match node:
            case ast.ImportFrom(module=str(module)):
                names |= {f"{module}.{alias.name}" for alias in node.names}
            case ast.Import():
                names |= {alias.name for alias in node.names}
            case ast.Constant(value=str(text)) if re.fullmatch(r"generation(\.\w+)+", text):
                names.add(text)
    return names


def room(module: str) -> str:
    """The first component below the app."""
    return module.split(".")[1]


def owner(name: str, trees: dict[str, ast.Module]) -> str:
    """The module in which a dotted name lies."""
    while name not in trees and "." in name:
        name = name.rpartition(".")[0]
    return name


def arrows() -> tuple[Graph, Graph]:
    """Who imports whom: among files, and among rooms."""
    trees = modules()
    files: Graph = {name: set() for name in trees if name != "generation"}
    rooms: Graph = defaultdict(set)
    for module in files:
        rooms[room(module)] |= set()
        for name in {owner(name, trees) for name in named(trees[module])} & files.keys() - {module}:
            files[module].add(name)
            if room(name) != room(module):
                rooms[room(module)].add(room(name))
    return files, rooms


def cycle(graph: Graph) -> list[str]:
    """One way round in a circle; empty where there is none."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return [str(name) for name in error.args[1]]
    return []


def test_the_rooms_are_few_and_no_arrow_leads_back() -> None:
    """What a newcomer can keep in mind; `pyproject.toml` says which arrows there may be."""
    files, rooms = arrows()
    assert 23 <= len(rooms) <= 29
    assert sum(len(others) for others in rooms.values()) <= 120
    assert (cycle(files), cycle(rooms)) == ([], [])


def test_the_root_is_the_life_of_a_generation() -> None:
    """Twelve modules at most; everything else has a room."""
    root = {path.stem for path in APP.glob("*.py")} - {"__init__"}
    assert len(root) <= 12, sorted(root)


@cache
def calls() -> Graph:
    """The modules in which each function is called, by the name that stands there."""
    found: Graph = defaultdict(set)
    for module, tree in modules().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                found[ast.unparse(node.func)].add(module)
    return found


def users(*names: str) -> set[str]:
    """The modules in which one of these is called."""
    return set().union(*(calls()[name] for name in names))


def test_each_thing_has_one_place() -> None:
    """A status changes, a picture's file is opened, and the feed's stream is written in one module each."""
    assert users("generation_measure", "webhook_note", "work_return") == {"generation.transitions"}
    # `availability` writes and deletes a probe, and no picture.
    assert users("default_storage.open", "default_storage.save", "default_storage.delete") == {
        "generation.pictures.files",
        "generation.pictures.availability",
    }
    assert users("stream_key") <= {"generation.feed.stream", "generation.feed.following"}


if __name__ == "__main__":
    of_files, of_rooms = arrows()
    number = sum(len(others) for others in of_rooms.values())
    lines = [f"{len(of_rooms)} rooms, {number} arrows, cycles: {cycle(of_files)} {cycle(of_rooms)}"]
    lines += [f"{name} -> {', '.join(sorted(others))}" for name, others in sorted(of_rooms.items())]
    sys.stdout.write("\n".join(lines) + "\n")
