"""YAML of profiles, read safely and more strictly than its own rules.

A key given twice, an alias, a tag that does not fit its value, and a number that YAML reads in base 8 or 60 (``010``,
``1:30``, ``1:30.5``) are refused, because none of them is ever what a profile means.

    content = read(Path("profiles/smoke.yaml"))
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from textreg.errors import InputError, quoted

#: A profile is a page of text; a larger file is another one, named by mistake.
MAX_BYTES = 256 * 2**10


class _Loader(yaml.SafeLoader):
    """YAML's safe loader without what is legal there and a trap here.

    Aliases are refused: ten lines of them describe a value larger than any memory.
    """

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()
            raise yaml.MarkedYAMLError(
                problem=f"alias *{event.anchor}: aliases are not accepted, write the value out",
                problem_mark=event.start_mark,
            )
        return super().compose_node(parent, index)

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (IndexError, KeyError, AttributeError, TypeError, ValueError, OverflowError) as error:
            # A tag that does not fit its value, such as !!int "", which PyYAML reads without looking.
            kind = node.tag.rpartition(":")[2]
            raise yaml.MarkedYAMLError(
                problem=f"{quoted(node.value)} is no {kind}", problem_mark=node.start_mark
            ) from error

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise yaml.MarkedYAMLError(
                        problem=f"key {key.value!r} is there twice", problem_mark=key.start_mark
                    )
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def _strict_int(loader: _Loader, node: yaml.ScalarNode) -> int:
    return _in_base_10(node, yaml.SafeLoader.construct_yaml_int(loader, node), r"[-+]?0[0-7_]+|.*:.*")


def _strict_float(loader: _Loader, node: yaml.ScalarNode) -> float:
    return _in_base_10(node, yaml.SafeLoader.construct_yaml_float(loader, node), r".*:.*")


def _in_base_10(node: yaml.ScalarNode, value: Any, other: str) -> Any:
    if re.fullmatch(other, node.value):
        raise yaml.MarkedYAMLError(
            problem=f"{node.value[:60]} means {quoted(value)} in YAML; write that number", problem_mark=node.start_mark
        )
    return value


_Loader.add_constructor("tag:yaml.org,2002:int", _strict_int)
_Loader.add_constructor("tag:yaml.org,2002:float", _strict_float)


def read(path: Path) -> Mapping[str, Any]:
    """The mapping in a profile's file; raises :class:`InputError` that names the file and, where known, the line."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise InputError(f"{path}: over {MAX_BYTES // 2**10} kB, which no profile is; name another file")
        value = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({error})") from None
    except RecursionError:
        raise InputError(f"{path}: not valid YAML (nested too deeply)") from None
    except (yaml.YAMLError, ValueError) as error:
        place = getattr(error, "problem_mark", None)
        line = f" in line {place.line + 1}" if place is not None else ""
        problem = getattr(error, "problem", None) or str(error).partition("\n")[0] or "no safe YAML"
        raise InputError(f"{path}: not valid YAML{line} ({problem})") from None
    if not isinstance(value, dict):
        raise InputError(f"{path}: a profile is a mapping of name, scale, seed, arms and stage sections")
    return value
