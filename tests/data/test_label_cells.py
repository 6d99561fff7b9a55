"""Several labels in a cell: whole, or refused; never cut in pieces in silence."""

import json

import pytest

from aape.data.label_cells import LabelCells
from aape.errors import DataError


@pytest.mark.parametrize(
    ("cells", "labels", "note"),
    [
        (
            ["Dog;Male speech, man speaking", "", "Dog"],
            [["Dog", "Male speech, man speaking"], [], ["Dog"]],
            "split at ';'",
        ),
        (["Dog; Male speech, man speaking"], [["Dog", "Male speech, man speaking"]], "split at ';'"),
        (["Dog|Bark; growl"], [["Dog", "Bark; growl"]], "split at '|'"),
        (["dog,cat", "AC; DC,dog"], [["dog", "cat"], ["AC; DC", "dog"]], "split at ','"),
        (["dog,cat", "cat", ""], [["dog", "cat"], ["cat"], []], "split at ','"),
        (["dog, cat", "cat, cow"], [["dog", "cat"], ["cat", "cow"]], "split at ','"),
        (["Dog, Cat", "Cat"], [["Dog", "Cat"], ["Cat"]], "split at ','"),
        (["/m/04rlf,/m/09x0r"], [["/m/04rlf", "/m/09x0r"]], "split at ','"),
        (["dog;cat;"], [["dog", "cat"]], "split at ';'"),
        (["Keyboard (musical)|Piano"], [["Keyboard (musical)", "Piano"]], "split at '|'"),
        (["dog", "cat"], [["dog"], ["cat"]], "no clip has several labels"),
        (["", ""], [[], []], "no clip has several labels"),
        (["['Dog', 'Male speech, man speaking']", "[]", ""], [["Dog", "Male speech, man speaking"], [], []], "lists"),
        ([json.dumps(["Dog", "Café; bar"])], [["Dog", "Café; bar"]], "lists"),
        (["['dog' 'cat']", "['a'\n 'b']"], [["dog", "cat"], ["a", "b"]], "lists"),  # NumPy's
        (["[np.str_('dog'), np.str_('cat')]"], [["dog", "cat"]], "lists"),
        (["{'dog', \"cat's\"}", "('cow',)"], [["dog", "cat's"], ["cow"]], "lists"),  # sets and tuples
        (["[01, 02]", "[3]"], [["01", "02"], ["3"]], "lists"),
        (["[1, 20]", "[3]"], [["1", "20"], ["3"]], "lists"),
        (["[np.str_('Bell (big)'), np.str_('Drum')]"], [["Bell (big)", "Drum"]], "lists"),
        (["array(['a', 'b'], dtype=object)", "set()", "nan"], [["a", "b"], [], []], "lists"),
        (["[b'dog']", "['Dog\\'s']"], [["dog"], ["Dog's"]], "lists"),
        ([r'["cafe\u0301"]', '["café"]'], [["café"], ["café"]], "lists"),  # one class, however it is composed
        (["(unknown)", "(other)"], [["(unknown)"], ["(other)"]], "no clip has several labels"),
        (["Dog;bark", "Turdus merula;song"], [["Dog", "bark"], ["Turdus merula", "song"]], "split at ';'"),
        (["Dog,bark"], [["Dog", "bark"]], "split at ','"),
    ],
)
def test_labels_are_told_apart_in_one_way_for_the_table(cells: list[str], labels: list[list[str]], note: str) -> None:
    found = LabelCells("t.csv", cells)
    assert found.labels == labels
    assert note in found.note


def test_the_separator_can_be_chosen() -> None:
    """Whoever says it means it: nothing looks like a piece then."""
    assert LabelCells("t.csv", ["Male speech, man speaking"], ",").labels == [["Male speech", "man speaking"]]
    assert LabelCells("t.csv", ["Dog;Male speech, man speaking"], ";").labels[0][1] == "Male speech, man speaking"
    assert LabelCells("t.csv", ["a b", ""], " ").labels == [["a", "b"], []]


@pytest.mark.parametrize(
    ("cells", "reason"),
    [
        (["Dog", "Male speech, man speaking", "Dog, Male speech, man speaking"], "'man speaking' looks like a piece"),
        (["Dog,Male speech, man speaking"], "'man speaking' looks like a piece"),
        (["Keyboard (electric, musical),Piano"], "looks like a piece"),
        (["rain, wind", "rain", "wind;thunder"], "'rain, wind' looks like a piece of a label, or like several"),
        (["'dog','cat'"], "looks like a piece"),
        (["Dog;Cat,Cow"], "labels hold ';' and ','"),
        (["Dog;Cat|Cow"], "labels hold ';' and '|'"),
    ],
)
def test_what_looks_like_pieces_is_refused_with_the_way_out(cells: list[str], reason: str) -> None:
    with pytest.raises(DataError) as caught:
        LabelCells("t.csv", cells)
    assert reason in str(caught.value)
    assert "--multi-label=" in str(caught.value)


@pytest.mark.parametrize(
    "cell",
    [
        "[nan]", "['a' ... 'b']", "[dog, cat]", "['a', ['b']]", "[a, b", "[exit('a')]", "[1_0]",
        r"['C:\Users']", "[0, 1, 1]", "[0 1]",
    ],
)  # fmt: skip
def test_what_is_no_list_of_labels_is_refused(cell: str) -> None:
    with pytest.raises(DataError):
        LabelCells("t.csv", [cell, cell])
