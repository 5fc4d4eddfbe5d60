"""The line of every key, against documents whose lines are known because they were written line by line."""

from __future__ import annotations

import tomllib
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from leyden.configuration.lines import KeyPath, key_lines

DOCUMENT = '''# [not.a.table]
top = 1 # top2 = 2
"quoted key" = """
[neither] = 3
""""
literal.'dotted . key'.end = \'\'\'
x = 1 \'\'\'

[callbacks.Timer] # a comment
duration = "00:12:00:00" # ] }
array = [ # [
  "a", "b]", # ,
  { x = 1, "y.z" = [1,
    2] },
]
 inline = { a.b = 1, c = { d = "}" } }
date = 1979-05-27 07:32:00

[[callbacks.EarlyStopping]]
monitor = 'a'
[callbacks.EarlyStopping.extra]
deep = 1
[[callbacks.EarlyStopping]]
monitor = "esc \\" ] = # \\\\"
[[ callbacks . EarlyStopping . "more" ]]
n = 0
[ callbacks ]
late.one = 1
late.two = 2
'''


def test_a_document_with_everything_in_it() -> None:
    lines = key_lines(DOCUMENT)
    assert set(paths(tomllib.loads(DOCUMENT))) <= set(lines)
    assert lines == {
        ("top",): 2,
        ("quoted key",): 3,
        ("literal",): 6,
        ("literal", "dotted . key"): 6,
        ("literal", "dotted . key", "end"): 6,
        ("callbacks",): 27,
        ("callbacks", "Timer"): 9,
        ("callbacks", "Timer", "duration"): 10,
        ("callbacks", "Timer", "array"): 11,
        ("callbacks", "Timer", "array", 0): 12,
        ("callbacks", "Timer", "array", 1): 12,
        ("callbacks", "Timer", "array", 2): 13,
        ("callbacks", "Timer", "array", 2, "x"): 13,
        ("callbacks", "Timer", "array", 2, "y.z"): 13,
        ("callbacks", "Timer", "array", 2, "y.z", 0): 13,
        ("callbacks", "Timer", "array", 2, "y.z", 1): 14,
        ("callbacks", "Timer", "inline"): 16,
        ("callbacks", "Timer", "inline", "a"): 16,
        ("callbacks", "Timer", "inline", "a", "b"): 16,
        ("callbacks", "Timer", "inline", "c"): 16,
        ("callbacks", "Timer", "inline", "c", "d"): 16,
        ("callbacks", "Timer", "date"): 17,
        ("callbacks", "EarlyStopping"): 19,
        ("callbacks", "EarlyStopping", 0): 19,
        ("callbacks", "EarlyStopping", 0, "monitor"): 20,
        ("callbacks", "EarlyStopping", 0, "extra"): 21,
        ("callbacks", "EarlyStopping", 0, "extra", "deep"): 22,
        ("callbacks", "EarlyStopping", 1): 23,
        ("callbacks", "EarlyStopping", 1, "monitor"): 24,
        ("callbacks", "EarlyStopping", 1, "more"): 25,
        ("callbacks", "EarlyStopping", 1, "more", 0): 25,
        ("callbacks", "EarlyStopping", 1, "more", 0, "n"): 26,
        ("callbacks", "late"): 28,
        ("callbacks", "late", "one"): 28,
        ("callbacks", "late", "two"): 29,
    }


def test_windows_line_ends_and_none_at_the_end() -> None:
    assert key_lines("a = 1\r\n\r\n[b]\r\nc = '''\r\n'''\r\nd = 2") == {
        ("a",): 1, ("b",): 3, ("b", "c"): 4, ("b", "d"): 6
    }  # fmt: skip
    assert key_lines("") == key_lines("# nothing") == {}


def paths(value: Any, at: KeyPath = ()) -> list[KeyPath]:
    """List the keys and elements of what `tomllib` read."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path for key, item in pairs for path in [(*at, key), *paths(item, (*at, key))]]


BARE = st.text("abcXYZ019_-", min_size=1, max_size=4)
ANY = st.text(st.characters(min_codepoint=32, max_codepoint=382, exclude_categories=["Cc"]), max_size=6)
LITERAL = ANY.filter(lambda text: "'" not in text)


def escaped(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


@st.composite
def keys(draw: st.DrawFn) -> tuple[str, str]:
    """A key and one way to write it."""
    how = draw(st.sampled_from(["bare", "basic", "literal"]))
    text = draw({"bare": BARE, "basic": ANY, "literal": LITERAL}[how])
    return text, {"bare": text, "basic": escaped(text), "literal": f"'{text}'"}[how]


@st.composite
def values(draw: st.DrawFn, depth: int = 2) -> str:
    """A value as it may be written; multi-line ones have their line ends in them."""
    simple = [
        st.sampled_from(["1", "0x1f", "3.5e-2", "inf", "true", "1979-05-27", "07:32:00", '"""\n[x] = 1 # \\" ""\n"""']),
        st.sampled_from(["'''\n'' = ]\n'''", '""""two quotes"""""', "[ # comment ]\n]", "[\n1,\n2,\n]"]),
        ANY.map(escaped),
        LITERAL.map(lambda text: f"'{text}'"),
    ]
    if depth == 0 or draw(st.booleans()):
        return draw(st.one_of(simple))
    if draw(st.booleans()):
        items = draw(st.lists(values(depth - 1), max_size=3))
        between = draw(st.sampled_from([", ", ",\n", " , # [\n "]))
        return f"[{between.join(items)}]"
    pairs = draw(st.lists(st.tuples(keys(), values(0)), max_size=3, unique_by=lambda pair: pair[0][0]))
    return "{" + ", ".join(f"{key[1]} = {value}" for key, value in pairs) + "}"


@given(data=st.data())
def test_keys_written_in_any_way_have_the_line_they_were_written_on(data: st.DataObject) -> None:
    tables = data.draw(
        st.lists(st.tuples(keys(), st.booleans()), max_size=4, unique_by=lambda table: table[0][0]), "tables"
    )
    written, known = "", {}
    number: dict[str, int] = {}
    for (name, shown), double in [*tables, *[table for table in tables if table[1]]]:
        written += data.draw(st.sampled_from(["", "\n", "# [c]\n\n"]))
        at: KeyPath = (name,)
        line = written.count("\n") + 1
        if double:
            number[name] = number.get(name, -1) + 1
            at = (name, number[name])
        written += f"[[{shown}]]\n" if double else f"[{shown}]\n"
        known[at] = line
        for pair in data.draw(st.lists(keys(), max_size=3, unique_by=lambda pair: pair[0])):
            known[(*at, pair[0])] = written.count("\n") + 1
            before, after = data.draw(st.sampled_from(["", "  "])), data.draw(st.sampled_from(["", " # = [ '"]))
            written += f"{before}{pair[1]} = {data.draw(values())}{after}\n"
    document = tomllib.loads(written)
    lines = key_lines(written)
    assert {path: lines[path] for path in known} == known
    assert set(paths(document)) == {path for path in lines if path}
