"""Names: which are the same, and how they are written for terminals, spreadsheets, tables and file systems."""

import csv
import io

import pytest

from unidual_zoo.names import check_fits_file_names, counted, csv_cell, from_csv_cell, printable, tidy, tidy_all
from unidual_zoo.spec import packaged_classes
from unidual_zoo.tabular import aligned_table, markdown_table


def test_one_file_is_no_files():
    told = [counted(number, noun) for number, noun in ((1, "file"), (2000, "test file"), (0, "class"), (1, "class"))]
    assert told == ["1 file", "2,000 test files", "0 classes", "1 class"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("cat", "cat"),
        (" Cat\t", "Cat"),
        ("cat\u00a0", "cat"),
        ("big\u202fcat", "big cat"),
        ("big \n cat", "big cat"),
        ("cafe\u0301", "caf\u00e9"),
        ("\ufeffcat\u200b", "cat"),
        ("c\u00adat\u200e", "cat"),
        ("\u00a0 \u3000", ""),
        ("می\u200cروم", "می\u200cروم"),  # changes how the word looks
        ("\udcff ", "\udcff"),  # a byte of a file name that is not text
    ],
)
def test_a_tidy_name_is_what_one_sees(name, expected):
    assert tidy(name) == expected
    assert tidy(expected) == expected


def test_the_packaged_class_names_are_tidy():
    for name in ("cifar10", "cifar_motion", "imagenet1k", "kinetics400", "toy_actions", "toy_objects"):
        assert tuple(map(tidy, packaged_classes(name))) == packaged_classes(name)


def test_names_that_become_one_are_told():
    assert tidy_all(["b ", "a", "a"], where="list", what="labels") == {"b ": "b", "a": "a"}
    with pytest.warns(UserWarning, match=r"^list: labels that look the same are taken as one: 'a', 'a\\xa0'$"):
        assert tidy_all(["a", "b", "a\u00a0"], where="list", what="labels") == {"a": "a", "b": "b", "a\u00a0": "a"}
    many = [f"{letter}{end}" for letter in "abcdefg" for end in ("", " ")]
    with pytest.warns(UserWarning, match=r"'e', 'e ' \(and 2 more\)$"):
        tidy_all(many, where="list", what="labels")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a cat.jpg", "a cat.jpg"),
        ("猫 😀 é\u00a0", "猫 😀 é\u00a0"),
        ("\x1b[31mred\x07", r"\x1b[31mred\x07"),
        ("a\nb\r\tc", r"a\nb\r\tc"),
        ("\x9b2J\x7f", r"\x9b2J\x7f"),
        ("photo\u202egpj.exe", r"photo\u202egpj.exe"),
        ("a\u2028b", r"a\u2028b"),
        ("\udcff", r"\udcff"),
        ("👩\u200d🚒", "👩\u200d🚒"),
    ],
)
def test_what_a_terminal_would_act_on_is_escaped(text, expected):
    assert printable(text) == expected


@pytest.mark.parametrize(
    ("text", "cell"),
    [
        ("cat", "cat"),
        ("a=b", "a=b"),
        ("=HYPERLINK(1)", "'=HYPERLINK(1)"),
        ("+1", "'+1"),
        ("-1", "'-1"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("\t=1", "'\t=1"),
        ("'=1", "''=1"),
        ("'tis", "'tis"),
        ("", ""),
    ],
)
def test_no_cell_begins_a_formula(text, cell):
    assert csv_cell(text) == cell
    assert cell[:1] not in {"=", "+", "-", "@", "\t"}
    assert from_csv_cell(cell) == text


def test_tables_hold_together():
    names = ["a|b\nc", "\x1b[2J"]
    assert markdown_table(["name", "other"], [names]) == ("| name | other |\n| --- | --- |\n| a\\|b c | \x1b[2J |\n")
    assert aligned_table(["name", "other"], [names]) == "name    other\na|b\\nc  \\x1b[2J\n"


@pytest.mark.parametrize("name", ["in1k", "my task", "größe", "x" * 100])
def test_names_that_fit_file_names(name):
    check_fits_file_names("task", name)


@pytest.mark.parametrize("name", ["a/b", "a\\b", "C:", "a*", "", " a", "a\n", "\x1b", "x" * 101, "é" * 51, "\udcff"])
def test_names_that_do_not_fit_file_names(name):
    with pytest.raises(ValueError, match="cannot be part of file names"):
        check_fits_file_names("task", name)


def test_a_cell_comes_back_through_csv():
    names = ["=1+1", "plain", "'=x", "-", "a,b"]
    text = io.StringIO()
    csv.writer(text).writerow(map(csv_cell, names))
    assert [from_csv_cell(cell) for cell in next(csv.reader([text.getvalue()]))] == names


def test_a_table_is_cut_to_the_terminal_but_for_its_first_column():
    rows = [("a_long_name_that_is_copied", "another long one", "x")]
    for width, row in ((40, "a_long_name_that_is_copied  another …  x"), (10, "a_long_name_that_is_copied  anot…  x")):
        header, line = aligned_table(("name", "what", "y"), rows, width=width).splitlines()
        assert line == row
        assert header.endswith("  y")
