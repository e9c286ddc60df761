"""Results on disk: whole, or a clear error."""

import json

import pytest
from bench_samples import CASE, document, failed, measured
from lstm_bench import results
from lstm_bench.results import ResultError


def test_a_document_comes_back_as_it_was(tmp_path):
    before = document(
        measured("fastlstm", 1e-3, noise=0.1, latency=[1e-6]), measured("torch", 2e-3), failed("jax", "hung", "why")
    )
    before.cores = {1: [1], 2: None}
    before.starts = {"torch": {"cold_s": 2.0, "warm_s": 1.0}}
    path = tmp_path / "r.json"
    results.save(before, path)
    after = results.load(path)
    assert after == before
    assert list(tmp_path.iterdir()) == [path]
    assert json.loads(path.read_text())["schema"] == "lstm-bench"


def test_a_later_minor_field_is_ignored(tmp_path):
    path = tmp_path / "r.json"
    data = document(measured("fastlstm", 1e-3)).to_json()
    data["mood"] = "good"
    data["measurements"][0]["moon"] = "full"
    path.write_text(json.dumps(data))
    assert results.load(path).measurements[0].case == CASE


@pytest.mark.parametrize("text, told", [
    ("", "is not JSON"),
    ("{", "is not JSON"),
    ("[" * 100_000, "is not JSON"),
    ('{"schema": "lstm-bench", "version": 1, "measurements": [', "is not JSON"),
    ("[1, 2]", "not a result of lstm-bench"),
    ("{}", "not a result of lstm-bench"),
    ('{"benchmarks": [], "machine_info": {}}', "not a result of lstm-bench"),
    ('{"schema": "lstm-bench", "version": 99}', "written by a newer lstm-bench; this one reads up to 1"),
    ('{"schema": "lstm-bench", "version": "1"}', "version '1'; it should be a whole number"),
    ('{"schema": "lstm-bench", "version": true}', "version True"),
    ('{"schema": "lstm-bench", "version": 1}', "a part missing or misshapen"),
    ('{"schema": "lstm-bench", "version": 1, "engines": {}, "measurements": [3]}', "a part missing or misshapen"),
])  # fmt: skip
def test_other_files_are_told_apart(tmp_path, text, told):
    path = tmp_path / "r.json"
    path.write_text(text)
    with pytest.raises(ResultError, match=r"r\.json") as caught:
        results.load(path)
    assert told in str(caught.value)


def test_a_number_beyond_all_floats_is_told(tmp_path):
    """JSON has whole numbers of any size."""
    path = tmp_path / "r.json"
    data = document(measured("fastlstm", 1e-3)).to_json()
    data["measurements"][0]["peak_gflops"] = {1: 10**400}
    path.write_text(json.dumps(data))
    with pytest.raises(ResultError, match="misshapen"):
        results.load(path)


def test_unreadable_files_are_told(tmp_path):
    with pytest.raises(ResultError, match="cannot be read: No such file"):
        results.load(tmp_path / "nothing.json")
    with pytest.raises(ResultError, match="cannot be read: Is a directory"):
        results.load(tmp_path)
    binary = tmp_path / "b.json"
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ResultError, match="is not JSON"):
        results.load(binary)
