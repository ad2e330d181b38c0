"""Saved analyses are untrusted: whatever is in the file, the answer is data or one clear error."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convsmith.analysis import analyze, baseline
from convsmith.analysis.baseline import Baseline, read_baseline
from convsmith.errors import SourceError
from convsmith.graph import parse

ANALYSIS = analyze(
    parse("3@9 > conv 4 3/2 p1 > [ relu | gap > up 5 ] > unsupported Foo ? > sigmoid")
)


def saved(folder: Path, data: object) -> Path:
    file = folder / "a.json"
    file.write_text(json.dumps(data), encoding="utf-8")
    return file


def test_what_was_saved_is_read(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    file.write_text(ANALYSIS.to_json(), encoding="utf-8")
    assert read_baseline(file) == Baseline.of(ANALYSIS)
    assert read_baseline(str(file)).unsupported == ("unsupported1", "sigmoid1")


def test_only_what_the_contract_names_is_needed(tmp_path: Path) -> None:
    data = ANALYSIS.to_dict()
    for row in data["rows"]:
        for key in ("alive_bytes", "arithmetic_intensity", "module", "reason", "rf"):
            del row[key]
    del data["memory"], data["unsupported"], data["inputs"]
    data["later"] = {"more": "keys"}
    assert read_baseline(saved(tmp_path, data)) == Baseline.of(ANALYSIS)


def changed(path: str, value: object) -> dict[str, Any]:
    data = copy.deepcopy(ANALYSIS.to_dict())
    *way, last = path.split("/")
    place: Any = data
    for key in way:
        place = place[int(key) if isinstance(place, list) else key]
    if value is KeyError:
        del place[last]
    else:
        place[int(last) if isinstance(place, list) else last] = value
    return data


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("schema", "convsmith.analysis/2", r"its schema is not convsmith\.analysis/1"),
        ("schema", KeyError, "its schema is not"),
        ("rows", KeyError, "rows: this is no list; write it anew"),
        ("rows", {}, "rows: this is no list"),
        ("rows/0", 3, r"rows\[0\]: this is no object"),
        ("rows/0/macs", -1, r"rows\[0\]\.macs: this is no whole number from 0 on"),
        ("rows/0/macs", 1.5, r"rows\[0\]\.macs: this is no whole number"),
        ("rows/0/macs", True, r"rows\[0\]\.macs: this is no whole number"),
        ("rows/0/macs", "12", r"rows\[0\]\.macs: this is no whole number"),
        ("rows/0/macs", 10**50, r"rows\[0\]\.macs: this is no whole number"),
        ("rows/1/name", "conv1", "rows: this is two rows with the name 'conv1'"),
        ("rows/1/name", None, r"rows\[1\]\.name: this is no text"),
        ("rows/1/status", "fine", r"rows\[1\]\.status: this is no status that convsmith knows"),
        ("rows/1/inputs", [["x"]], r"rows\[1\]\.inputs\[0\]\[0\]: this is no whole number"),
        ("rows/1/inputs", "3", r"rows\[1\]\.inputs: this is no list"),
        ("total", [], "total: this is no object"),
        (
            "total/peak_activation_bytes",
            KeyError,
            r"total\.peak_activation_bytes: this is no whole",
        ),
        ("outputs/y/rf/size", [1, "?"], r"outputs\.y\.rf\.size\[1\]: this is no whole number"),
        ("outputs/y/rf/stride", [1, 1], r"outputs\.y\.rf\.stride\[0\]: this is no text"),
        ("convention", 1, "convention: this is no text"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, path: str, value: object, message: str) -> None:
    file = saved(tmp_path, changed(path, value))
    with pytest.raises(SourceError, match=rf"a\.json: {message}"):
        read_baseline(file)


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"\xff\xfe", b"[" * 200_000, b"1" * 10_000, b'{"schema": NaN}', b"null", b'"x"'],
)
def test_what_is_no_analysis_is_one_error(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "a.json"
    file.write_bytes(content)
    with pytest.raises(SourceError, match=r"a\.json: .*write it|a\.json: it is not JSON; give a"):
        read_baseline(file)


def test_files_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SourceError, match=r"no\.json: there is no such file; write it with: conv"):
        read_baseline(tmp_path / "no.json")
    with pytest.raises(SourceError, match="it cannot be read"):
        read_baseline(tmp_path)
    monkeypatch.setattr(baseline, "LARGEST_FILE", 2**20)
    (tmp_path / "big.json").write_bytes(b" " * (2**20 + 1))
    with pytest.raises(SourceError, match=r"big\.json: it has more than 1 MiB"):
        read_baseline(tmp_path / "big.json")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)
PLACES = ("schema", "source", "convention", "rows", "rows/0", "rows/0/inputs", "rows/0/text",
          "rows/2/outputs/0", "rows/1/others", "total", "total/macs", "outputs", "outputs/y",
          "outputs/y/shape", "outputs/y/rf", "outputs/y/rf/offset")  # fmt: skip


@given(st.sampled_from(PLACES), JSON)
def test_any_value_in_any_place_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, path: str, value: object
) -> None:
    file = saved(tmp_path_factory.getbasetemp(), changed(path, value))
    try:
        read_baseline(file)
    except SourceError as error:
        assert "a.json" in str(error)  # noqa: PT017 - most values are refused, not all
