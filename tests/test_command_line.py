"""A command as one text is split by the rules of the system on which it runs."""

from __future__ import annotations

import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sabun.command_line import split


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        # The table in Microsoft's "Parsing C command-line arguments".
        (r'"a b c" d e', ["a b c", "d", "e"]),
        (r'"ab\"c" "\\" d', ['ab"c', "\\", "d"]),
        (r'a\\\b d"e f"g h', [r"a\\\b", "de fg", "h"]),
        (r"a\\\"b c d", [r"a\"b", "c", "d"]),
        (r'a\\\\"b c" d e', [r"a\\b c", "d", "e"]),
        (r'"a""b" c', ['a"b', "c"]),
        # What people type.
        (r'"C:\x y\train.py" --lr {lr}', [r"C:\x y\train.py", "--lr", "{lr}"]),
        (r"python C:\runs\train.py --out D:\new\\", ["python", r"C:\runs\train.py", "--out", r"D:\new" + "\\\\"]),
        (r'python train.py --note ""', ["python", "train.py", "--note", ""]),
        ("python 'train.py'", ["python", "'train.py'"]),
        ("  python\ttrain.py  ", ["python", "train.py"]),
        ("", []),
    ],
)
def test_a_command_of_windows(text: str, parts: list[str]) -> None:
    assert split(text, windows=True) == parts


@given(st.lists(st.text(st.sampled_from("ab \t\"\\'é{}"), max_size=8), max_size=5))
def test_the_parts_are_those_that_the_standard_library_wrote(parts: list[str]) -> None:
    assert split(subprocess.list2cmdline(parts), windows=True) == parts


def test_elsewhere_as_a_shell() -> None:
    assert split(r"a 'b c' d\ e", windows=False) == ["a", "b c", "d e"]


@pytest.mark.parametrize("windows", [True, False])
def test_an_open_quotation_mark_is_refused(windows: bool) -> None:
    with pytest.raises(ValueError, match="quotation"):
        split('python "train.py', windows=windows)
