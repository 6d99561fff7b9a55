"""Tables as spreadsheets and other people's programs write them: read, or refused with what was seen."""

import warnings
from pathlib import Path

import pytest

from aape.data.tables import open_table
from aape.errors import DataError

ROWS = [["a.wav", "Dog"], ["b c.wav", "Café, loud"]]


def read(path: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    with open_table(path) as table:
        return table.header, list(table.rows())


def table(path: Path, content: str | bytes, encoding: str = "utf-8") -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode(encoding))
    return path


@pytest.mark.parametrize(
    ("content", "first_line"),
    [
        ('file,label\na.wav,Dog\nb c.wav,"Café, loud"\n', 2),
        ('file, label\na.wav, Dog\nb c.wav, "Café, loud"\n', 2),  # spaces behind commas
        ("file;label\na.wav;Dog\nb c.wav;Café, loud\n", 2),
        ("file\tlabel\na.wav\tDog\nb c.wav\tCafé, loud\n", 2),
        ("file|label\na.wav|Dog\nb c.wav|Café, loud\n", 2),
        ('sep=,\nfile,label\na.wav,Dog\nb c.wav,"Café, loud"\n', 3),  # Excel's own
        ("sep=;\r\nfile;label\r\na.wav;Dog\r\nb c.wav;Café, loud\r\n", 3),
        ("SEP=;\n\nfile;label\na.wav;Dog\nb c.wav;Café, loud\n", 4),
        ('"sep=;"\nfile;label\na.wav;Dog\nb c.wav;Café, loud\n', 3),
        ('"file","label"\n"a.wav","Dog"\n"b c.wav","Café, loud"\n', 2),
        ('\n\nfile,label\na.wav,Dog\n\nb c.wav,"Café, loud"\n,\n', 4),  # blank lines
        ("file;label\na.wav;Dog;\nb c.wav;Café, loud;;\n", 2),  # delimiters at the ends of rows
        ('file,label\ra.wav,Dog\rb c.wav,"Café, loud"\r', 2),  # an old Macintosh's ends of lines
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_dialects_and_encodings_give_the_same_rows(tmp_path: Path, content: str, first_line: int, encoding: str):
    header, rows = read(table(tmp_path / "t.csv", content, encoding))
    assert header[:2] == ["file", "label"]
    assert [[cell.strip() for cell in cells[:2]] for _, cells in rows] == ROWS
    assert rows[0][0] == first_line


def test_columns_are_found_in_any_case(tmp_path: Path) -> None:
    """`File,Label`, `file_name` as in Hugging Face's audiofolder, `FILE NAME` of a spreadsheet."""
    with open_table(table(tmp_path / "t.csv", "File Name,Label,CLASS_ID\n")) as found:
        assert [found.find(name) for name in ("filename", "label", "class-id", "split")] == [0, 1, 2, None]
    with open_table(table(tmp_path / "t.csv", "file,Label,label,LABEL\n")) as found:
        assert found.find("label") == 2
        with pytest.raises(DataError, match="3 columns are called 'lAbel': rename all but one"):
            found.find("lAbel")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty"),
        (b"\n\n", "empty"),
        ("file,label\na.wav,Café\n".encode("latin-1"), "not UTF-8 text (byte 20): save it as UTF-8"),
        ("file,label\n".encode("utf-16")[:-1], "not UTF-16 text"),
        (b'file,label\na.wav,x\n"b.wav,Dog\n', "line 3: not a CSV"),
        (
            b"file,label\na.wav,Dog, loud\n",
            "line 2: not as many fields as the header has (3, not 2): put cells with commas",
        ),
        (b"file;label\na.wav\n", "line 2: not as many fields as the header has (1, not 2)"),
        (b"PK\x03\x04 and so on", "an Excel workbook, not a CSV: save it as CSV in UTF-8"),
    ],
)
def test_what_is_no_table_is_refused_with_what_was_seen(tmp_path: Path, content: bytes, reason: str) -> None:
    with pytest.raises(DataError) as caught:
        read(table(tmp_path / "t.csv", content))
    assert reason in str(caught.value)


def test_quotes_in_a_table_of_tabs_are_text(tmp_path: Path) -> None:
    """As in Common Voice: a quote that is never closed would swallow the rows behind it."""
    text = 'file\tsentence\n0.wav\t"Hey he said\n1.wav\tyes"\n2.wav\t"a ""b"" c"\n'
    assert [cells for _, cells in read(table(tmp_path / "t.tsv", text))[1]] == [
        ["0.wav", '"Hey he said'], ["1.wav", 'yes"'], ["2.wav", 'a "b" c'],
    ]  # fmt: skip


def test_rows_without_the_cells_of_nameless_columns_are_whole(tmp_path: Path) -> None:
    assert read(table(tmp_path / "t.csv", "file,label,\na.wav,Dog\n"))[1] == [(2, ["a.wav", "Dog", ""])]


def test_unused_columns_are_named_once(tmp_path: Path) -> None:
    """Also where somebody has caught warnings in between, which makes Python's filter forget."""
    path = table(tmp_path / "t.csv", "file,note,,Label\n")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(2):
            with open_table(path) as found:
                assert found.find("label") == 3
                found.find("file")
                found.warn_unused()
            with warnings.catch_warnings():
                warnings.simplefilter("always")
    assert [str(warning.message) for warning in caught] == [f"{path}: columns that are not used: note"]


def test_a_cell_of_two_lines_counts_both(tmp_path: Path) -> None:
    """The line that is named is the one an editor shows."""
    _, rows = read(table(tmp_path / "t.csv", 'file,note\na.wav,"one\ntwo"\nb.wav,x\n'))
    assert [line for line, _ in rows] == [3, 4]
