"""The command line: exit codes, and messages that help."""

import json

import pytest
from bench_samples import document, measured
from click.testing import CliRunner
from lstm_bench import results
from lstm_bench.__main__ import main


def call(*words):
    return CliRunner().invoke(main, list(words))


@pytest.mark.parametrize("words, told", [
    (("run", "--case", "speach"), "there is no case 'speach'; did you mean speech"),
    (("run", "--filter", "nothing"), "no case has a name or tag that matches 'nothing'"),
    (("run", "--shape", "1,2,3"), "it should be B,T,I,H[,layers][,bi]"),
    (("run", "--threads", "0"), "should be whole numbers from 1"),
    (("run", "--threads", "two"), "should be whole numbers from 1"),
    (("run", "--rivals", "torch,theano"), "there is no engine 'theano'"),
    (("run", "--dtype", "float16"), "'float16' is not one of"),
    (("run", "--mode", "evaluation"), "'evaluation' is not one of"),
    (("run", "--budget", "0"), "0 is not in the range"),
    (("run", "--json", "/no/such/folder/r.json"), "there is no folder /no/such/folder"),
    (("run", "--case", "ocr-line", "--mode", "stream"), "a bidirectional case cannot be streamed"),
    (("explain", "ocr-line", "--mode", "stream"), "cannot be streamed"),
    (("explain", "nothing"), "there is no case 'nothing'"),
    (("compare", "/no/a.json", "/no/b.json"), "/no/a.json cannot be read"),
    (("check",), "Missing option '--against'"),
    (("check", "--against", "/no/a.json"), "/no/a.json cannot be read"),
    (("check", "--against", "no-such-revision"), "nor a git revision here"),
    (("report", "/no/a.json"), "/no/a.json cannot be read"),
    (("list", "--filter", "nothing"), "no case has a name or tag"),
    (("sing",), "No such command 'sing'"),
])  # fmt: skip
def test_misuse_ends_with_code_2_and_a_reason(words, told):
    result = call(*words)
    assert result.exit_code == 2, result.output
    assert told in " ".join(result.output.split())


@pytest.fixture
def saved(tmp_path):
    """Two results of the same case, the second slower."""
    paths = []
    for k, seconds in enumerate((1e-3, 1.5e-3)):
        paths.append(str(tmp_path / f"{k}.json"))
        results.save(
            document(measured("fastlstm", seconds, noise=0.01, seed=k), measured("numpy", 5e-3, noise=0.01, seed=9)),
            paths[k],
        )
    return paths


def test_compare_judges_and_exits_by_its_verdict(saved):
    result = call("compare", *saved)
    assert result.exit_code == 1 and "slower" in result.output and "hold from run to run" in result.output
    assert call("compare", *saved[::-1]).exit_code == 0
    assert call("compare", saved[0], saved[0]).exit_code == 0
    assert call("compare", *saved, "--effect", "60").exit_code == 0
    assert "| small | infer |" in call("compare", *saved, "--markdown").output


def test_compare_needs_something_in_common(saved, tmp_path):
    other = tmp_path / "other.json"
    empty = document(measured("fastlstm", 1.0, mode="training"))
    results.save(empty, other)
    result = call("compare", saved[0], str(other))
    assert result.exit_code == 2 and "no case in common" in result.output


def test_report_writes_the_page_beside_the_result(saved, tmp_path):
    assert call("report", saved[0]).exit_code == 0
    assert (tmp_path / "0.html").read_text(encoding="utf-8").startswith("<!doctype html>")
    assert call("report", saved[0], "-o", str(tmp_path / "page.html")).exit_code == 0
    assert (tmp_path / "page.html").exists()


def test_list_shows_cases_as_text_and_json():
    assert "vad-step" in call("list").output
    listed = json.loads(call("list", "--filter", "vollo", "--json").output)
    assert [case["name"] for case in listed] == ["vollo-2x128", "vollo-3x256", "vollo-3x480"]


def test_run_times_a_case_and_keeps_its_samples(tmp_path):
    path = tmp_path / "r.json"
    case = ("--shape", "1,2,3,4", "--mode", "inference", "--threads", "1", "--budget", "0.01")
    result = call("run", *case, "--engine", "numpy", "--json", str(path))
    assert result.exit_code == 0, result.output
    assert "shape-1-2-3-4" in result.output and "1 row with numpy" in result.output
    (measurement,) = results.load(path).measurements
    assert measurement.status == "ok" and measurement.rounds


def test_the_list_fits_100_columns_with_all_its_columns():
    lines = call("list").output.splitlines()
    assert max(map(len, lines)) <= 100 and "about" in lines[0]
