"""YAML of profiles, in its version 1.2, in which ``no`` is a word, ``010`` is ten and a key stands once.

A tag that does not fit its value is refused like any other fault, and so is an alias, because ten lines of them
describe a value larger than any memory.

    content = read(Path("profiles/smoke.yaml"))
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from ruamel.yaml.events import AliasEvent

from textreg.errors import InputError, quoted

#: A profile is a page of text; a larger file is another one, named by mistake.
MAX_BYTES = 256 * 2**10


def read(path: Path) -> Mapping[str, Any]:
    """The mapping in a profile's file; raises :class:`InputError` that names the file and, where known, the line."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise InputError(f"{path}: over {MAX_BYTES // 2**10} kB, which no profile is; name another file")
        text = path.read_text(encoding="utf-8")
        value = YAML(typ="safe", pure=True).load(text)
        for event in YAML(typ="safe", pure=True).parse(text):
            if isinstance(event, AliasEvent):
                where = f"line {event.start_mark.line + 1} (alias *{event.anchor}"
                raise InputError(f"{path}: not valid YAML in {where}: aliases are not accepted, write the value out)")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({error})") from None
    except RecursionError:
        raise InputError(f"{path}: not valid YAML (nested too deeply)") from None
    except YAMLError as error:
        place = getattr(error, "problem_mark", None)
        line = f" in line {place.line + 1}" if place is not None else ""
        problem = getattr(error, "problem", None) or str(error).partition("\n")[0]
        raise InputError(f"{path}: not valid YAML{line} ({problem})") from None
    except (ValueError, TypeError, LookupError, AttributeError, OverflowError) as error:  # of !!int "" and its like
        raise InputError(f"{path}: not valid YAML (a tag does not fit its value: {quoted(error)})") from None
    if not isinstance(value, dict):
        raise InputError(f"{path}: a profile is a mapping of name, scale, seed, arms and stage sections")
    return value
