"""How is a policy written down, so that its reader knows where every value comes from?"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

_WIDTH = 116


@dataclass(frozen=True, slots=True)
class Value:
    """A value as a policy spells it. origin: where it comes from, in words."""

    text: str
    origin: str


def told_file(name: str, data: bytes | None) -> str:
    """One of the files that values were computed from, by its digest."""
    return f"{name}: none" if data is None else f"{name}: sha256 {hashlib.sha256(data).hexdigest()}, {len(data)} bytes"


def _shown(text: str) -> str:
    """Words of others, such as the name of a pod, that are no line of the policy's."""
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)


def head(sources: Iterable[str]) -> str:
    """The beginning of a policy. sources: what its values were computed from."""
    lines = ("Reference values by `sottovoce-attest reference`, computed from", *(f"  {source}" for source in sources))
    return "".join(f"# {_shown(line)}\n" for line in lines) + "\nversion = 1\n"


def comment(text: str) -> str:
    """Words above a line, as many lines as they take."""
    lines = [""]
    for word in _shown(text).split():
        if len(lines[-1]) + len(word) > _WIDTH:
            lines.append("")
        lines[-1] += f" {word}"
    return "".join(f"#{line}\n" for line in lines)


def array(key: str, values: Iterable[Value]) -> str:
    """A key with its values, each with its origin."""
    lines = "".join(f"    {json.dumps(value.text)},  # {_shown(value.origin)}\n" for value in values)
    return f"{key} = [\n{lines}]\n"


def entry(table: str, values: Mapping[str, str], origin: str) -> str:
    """One entry of an array of tables."""
    lines = "".join(f"{key} = {json.dumps(text)}\n" for key, text in values.items())
    return f"\n{comment(origin)}[[{table}]]\n{lines}"


def unlike(key: str, named: Iterable[str] | None, computed: Iterable[Value], *, all_of_them: bool) -> Iterator[str]:
    """How what a policy names differs from what was computed.

    named: None where the policy does not ask. all_of_them: whether a policy has to name every value, and not one.
    """
    values = tuple(computed)
    if named is None:
        yield f"{key} is not asked for, so that any would do; computed: {', '.join(value.text for value in values)}"
        return
    known = {value.text for value in values}
    names = tuple(named)
    yield from (f"{key} names {text}, which these files do not give" for text in names if text not in known)
    missing = [value for value in values if value.text not in names]
    if all_of_them or len(missing) == len(values):
        yield from (f"{key} does not name {value.text} ({value.origin})" for value in missing)
