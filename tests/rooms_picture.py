"""The picture of the rooms in CONTRIBUTING.md: a Mermaid graph, which GitHub draws, made from the imports themselves.

An arrow is an import; those that a longer way implies are left out, or the picture would be black.  Imports for type
checkers do not count, and every room may import the ground floor.

    python tests/rooms_picture.py     # writes the picture anew
"""

from pathlib import Path

import grimp

PAGE = Path(__file__).parents[1] / "CONTRIBUTING.md"
BEGIN, END = "<!-- rooms: made by tests/rooms_picture.py -->\n", "<!-- end of rooms -->\n"
PATH = ("scenes", "micro", "data", "vlm", "training", "fidelity", "evaluation")  # what a student reads


def arrows() -> dict[str, set[str]]:
    """Room -> the rooms it imports from."""
    graph = grimp.build_graph("textreg", exclude_type_checking_imports=True)
    rooms = {name for name in graph.find_children("textreg") if graph.find_children(name)}
    short = {room: room.removeprefix("textreg.") for room in rooms}
    found: dict[str, set[str]] = {name: set() for name in short.values()}
    for one in rooms:
        for other in rooms - {one}:
            if graph.direct_import_exists(importer=one, imported=other, as_packages=True):
                found[short[one]].add(short[other])
    return found


def reduced(edges: dict[str, set[str]]) -> list[tuple[str, str]]:
    """The arrows that no longer way implies."""

    def reached(room: str) -> set[str]:
        return edges[room].union(*(reached(other) for other in edges[room]))

    return sorted(
        (room, other)
        for room, others in edges.items()
        for other in others
        if not any(other in reached(between) for between in others)
    )


def picture() -> str:
    """The block that stands between the two marks."""
    lines = [f"    {one} --> {other}" for one, other in reduced(arrows())]
    path = f"    classDef path fill:#d7e8f7,stroke:#0072B2\n    class {','.join(PATH)} path"
    return "\n".join(["```mermaid", "graph TD", *lines, path, "```", ""])


def page(text: str) -> str:
    """The page with the picture of today in it."""
    before, _, rest = text.partition(BEGIN)
    return f"{before}{BEGIN}{picture()}{END}{rest.partition(END)[2]}"


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
