"""Files of one JSON object a line."""

from aape.runs.files import Records


def test_any_name_can_be_recorded(tmp_path):
    """A bad file whose name is no Unicode, or holds a line separator, must not end a run or spoil its resuming."""
    records = Records(tmp_path / "bad.jsonl")
    names = ["\udcff.wav", "line\u2028separator.wav", "Bär.wav"]
    for step, name in enumerate(names):
        records.append(step, name=name)
    assert [record["name"] for record in records.read()] == names
    records.cut_after(1)
    assert [record["name"] for record in records.read()] == names[:2]
