"""Mutants of files, as hypothesis strategies."""

import json
import math
import struct
from typing import Any

from hypothesis import strategies as st


@st.composite
def mutated_bytes(draw: st.DrawFn, content: bytes) -> bytes:
    """A few changes of a file: bits, bytes, numbers, cuts, insertions, copies."""
    data = bytearray(content)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(0, len(data) - 1)))
        # half of the changes lie in the first kilobyte and the last, where the structure is
        edge = draw(st.integers(0, min(1024, max(0, len(data) - 1))))
        at = draw(st.sampled_from([at, edge, max(0, len(data) - 1 - edge)]))
        length = draw(st.sampled_from([1, 2, 4, 8, 16, 64, 256]))
        match draw(st.sampled_from(["bit", "byte", "number", "cut", "insert", "copy", "truncate"])):
            case "bit":
                data[at : at + 1] = bytes(value ^ (1 << draw(st.integers(0, 7))) for value in data[at : at + 1])
            case "byte":
                data[at : at + 1] = draw(st.binary(min_size=1, max_size=1))
            case "number":
                value = draw(st.sampled_from([0, 1, -1, 2**31 - 1, -(2**31), 2**40, 2**62, 2**63 - 1]))
                data[at : at + 8] = struct.pack("<q", value)
            case "cut":
                del data[at : at + length]
            case "insert":
                data[at:at] = draw(st.binary(min_size=length, max_size=length))
            case "copy":
                source = draw(st.integers(0, max(0, len(data) - 1)))
                data[at : at + length] = data[source : source + length]
            case "truncate":
                del data[at:]
    return bytes(data)


def _deep(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


_VALUES = [
    *(None, True, False, 0, 1, -1, 2, 0.5, -0.5, 1e-320, 1e308, -1e308, 2**40, 2**63, -(2**63), 10**400),
    *(math.nan, math.inf, -math.inf, "", "0", "2", "nan", "\ud800", "\0", "\x1b[31m", "a\nb", "é", "x" * 400),
    *("../../outside", "/etc/passwd", "$x_{", "=1+1", "<script>alert(1)</script>", "(a+)+$", "(", "os.system"),
    *("float32", "int8", "complex64"),
    *([], {}, [1], ["a"], {"a": 1}, [[]], _deep(50), _deep(300)),
]  # fmt: skip


_DEEPEST = 12


def _places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [path] if len(path) < _DEEPEST else []
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) and found else ()
    for key, inner in items:
        found += _places(inner, (*path, key))
    return found


@st.composite
def mutated_json(draw: st.DrawFn, text: str) -> str:
    """A few changes of a JSON file: values replaced, removed, doubled, renamed; sometimes of its characters."""
    if draw(st.integers(0, 9)) == 0:
        return draw(mutated_bytes(text.encode())).decode(errors="replace")
    if draw(st.integers(0, 49)) == 0:
        return draw(
            st.sampled_from(["", "[" * 100_000, '{"a":' * 50_000, "null", "[]", "{}", "nan", '"a"', "\ufeff{}"])
        )
    value = json.loads(text)
    for _ in range(draw(st.integers(1, 3))):
        *path, last = draw(st.sampled_from([place for place in _places(value) if place] or [()])) or [None]
        if last is None:
            break
        at = value
        for key in path:
            at = at[key]
        match draw(st.sampled_from(["replace", "replace", "replace", "remove", "rename", "double"])):
            case "replace":
                at[last] = json.loads(json.dumps(draw(st.sampled_from(_VALUES))))  # a copy
            case "remove":
                del at[last]
            case "rename" if isinstance(at, dict):
                name = draw(st.sampled_from(["", "x", "../x", "a/b", "\ud800", "\0", "x" * 300]))
                at[name] = at.pop(last)
            case "double" if isinstance(at, list):
                at.append(at[last])
    return json.dumps(value)
