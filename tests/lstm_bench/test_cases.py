"""The case table, its counts, and what can be asked of it."""

import subprocess
import sys

import pytest
from lstm_bench import cases
from lstm_bench.cases import CASES, Case, CaseError


def test_flops_count_gates_of_all_layers_and_directions():
    case = Case("c", B=3, T=7, I=5, H=4, layers=2, bidirectional=True)
    forward = 3 * 7 * 2 * (2 * 16 * (5 + 4) + 2 * 16 * (8 + 4))
    assert case.flops("inference") == forward
    assert case.flops("training") == 3 * forward
    assert Case("c", 3, 7, 5, 4).flops("stream") == 3 * 2 * 16 * 9


def test_the_table_matches_the_published_shapes():
    assert len(cases.tagged("named")) == 15
    assert [c.name for c in cases.tagged("quick")][:2] == ["vad-step", "vad-sequence"]
    assert CASES["ocr-line"][1:7] == (1, 63, 24, 32, 1, True)
    assert CASES["hydrology"].flops("inference") == 8 * 128 * (30 + 128) * 365 * 256
    assert len(cases.tagged("db-train")) == 18 and len(cases.tagged("db-serve")) == 15
    assert all(name == case.name for name, case in CASES.items())


@pytest.mark.parametrize("text, expected", [
    ("1,2,3,4", (1, 2, 3, 4, 1, False)),
    ("8, 128, 64, 256, 2", (8, 128, 64, 256, 2, False)),
    ("1,63,24,32,bi", (1, 63, 24, 32, 1, True)),
    ("1,63,24,32,2,bi", (1, 63, 24, 32, 2, True)),
])  # fmt: skip
def test_shapes_are_read(text, expected):
    case = cases.from_shape(text)
    assert case[1:7] == expected
    assert cases.from_shape(case.shape)[1:7] == expected


@pytest.mark.parametrize(
    "text", ["", "1,2,3", "1,2,3,0", "1,2,3,-4", "1,2,3,4,5,6", "a,b,c,d", "1,2,3,4,bib", "bi", "1,2,3,²"]
)
def test_bad_shapes_are_told(text):
    with pytest.raises(CaseError, match="it should be B,T,I,H"):
        cases.from_shape(text)


def test_unknown_names_offer_their_neighbours():
    with pytest.raises(CaseError, match=r"no case 'vad-sequenc'; did you mean vad-sequence"):
        cases.named(["vad-sequenc"])
    with pytest.raises(CaseError, match="lstm-bench list"):
        cases.named(["zzzz"])


def test_filters_take_names_tags_and_patterns():
    assert [c.name for c in cases.matching("vad")] == ["vad-step", "vad-sequence"]
    assert cases.matching("db-serve") == cases.tagged("db-serve")
    assert {c.name for c in cases.matching("odd-b*")} == {"odd-b48", "odd-b1000"}
    with pytest.raises(CaseError, match="'nothing'"):
        cases.matching("nothing")


def test_a_case_survives_json():
    for case in CASES.values():
        assert Case.from_json(case.to_json())[:7] == case[:7]


def test_only_one_direction_can_be_streamed():
    assert not CASES["ocr-line"].supports("stream") and CASES["vad-step"].supports("stream")


def test_help_and_errors_import_nothing_heavy():
    code = (
        "import sys, lstm_bench.__main__\n"
        "heavy = {'numpy', 'numba', 'fastlstm', 'torch'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
