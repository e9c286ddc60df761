"""Tables and pages: what they say, how wide they are, and that they need nothing else."""

import re
import xml.etree.ElementTree as ElementTree

import click
import pytest
from bench_samples import CASE, document, failed, measured
from lstm_bench import caveats, page, summary, table
from lstm_bench.cases import CASES
from lstm_bench.table import Cell, Column

RIVALS = ("numpy", "torch", "onnxruntime", "openvino", "jax")


def full(rivals=RIVALS, threads=(1, 2)):
    """Every named case in every mode, by everybody."""
    found = []
    for t in threads:
        for case in CASES.values():
            for mode in ("inference", "training", "stream"):
                if "named" in case.tags and case.supports(mode):
                    seconds = case.flops(mode) / 40e9 / t + 5e-6
                    steps = [seconds * (1 + k / 50) for k in range(99)] if mode == "stream" else []
                    what = {"case": case, "mode": mode, "threads": t, "rounds": 5, "latency": steps}
                    engines = enumerate(("fastlstm", *rivals), 1)
                    found += [measured(name, seconds * k, **what) for k, name in engines]
    result = document(*found)
    result.starts = {"fastlstm": {"cold_s": 15.0, "warm_s": 1.2}, "torch": {"cold_s": 3.0, "warm_s": 2.9}}
    return result


def test_the_table_fits_100_columns_with_all_rivals():
    text = click.unstyle(table.fitted(*summary.table(full(threads=(1,)))))
    assert max(map(len, text.splitlines())) <= 100
    assert "GFLOP/s" in text and "us a" in text
    row = next(line for line in text.splitlines() if line.startswith("speech") and " infer" in line)
    assert "41.95" in row and "209.7 " in row  # 1.678 GFLOP at 40 GFLOP/s, and us a step


def test_a_table_too_wide_spares_columns_and_no_more():
    text = click.unstyle(table.fitted(*summary.table(full((*RIVALS, "keras")))))
    assert max(map(len, text.splitlines())) <= 100
    assert "us a" not in text and "keras" in text and "peak" in text
    columns, rows = [Column("a" * 30), Column("b" * 30, spare=True), Column("c" * 30)], [["1", "2", "3"]]
    assert table.fitted(columns, rows, 100) == table.plain(columns, rows)
    assert table.fitted(columns, rows, 93) == table.plain(columns, rows, gap=1)
    assert table.fitted(columns, rows, 70) == table.plain(columns[::2], [["1", "3"]])
    assert table.fitted(columns, rows, 20) == table.plain(columns[::2], [["1", "3"]])  # no more can be spared


def test_gaps_stand_in_the_table_by_name():
    columns, rows = summary.table(
        document(measured("fastlstm", 1e-3), failed("torch", "crashed", "x"), failed("jax", "unsupported"))
    )
    (row,) = rows
    cells = dict(zip([c.heading for c in columns], row, strict=True))
    assert cells["torch"] == "crashed" and cells["jax"] == "-" and cells["x the\nbest"] == Cell("")
    assert summary.table(document(failed("fastlstm", "wrong", "y")))[1][0][2] == "wrong"


def test_ratios_are_to_the_fastest_rival():
    result = document(measured("fastlstm", 1e-3), measured("numpy", 5e-3), measured("torch", 2e-3))
    (found,) = result.groups().values()
    assert [speed.rival for speed in summary.speeds(found, "fastlstm")] == ["torch", "numpy"]
    assert summary.speeds(found, "fastlstm")[0].ratio.estimate == pytest.approx(2.0)
    (mean,) = summary.means(result)
    assert (mean.mode, mean.cases, mean.case, mean.rival) == ("inference", 1, "small", "torch")


def test_the_share_of_the_peak_is_taken_round_by_round():
    m = measured("fastlstm", 1e-3)
    m.rounds = {0: [1e-6], 1: [2e-6]}
    m.peak_gflops = {0: 100.0, 1: 50.0}  # the machine was half as fast in the second round
    flops = CASE.flops("inference")
    assert summary.share_of_peak(m) == pytest.approx(flops / 1e-6 / 1e9 / 100)
    m.peak_gflops = {}
    assert summary.share_of_peak(m) is None


@pytest.mark.parametrize(
    "seconds, text", [(4.7e-6, "0.0047"), (1.5e-3, "1.500"), (0.0427, "42.70"), (1.2345, "1234.5"), (30, "30000")]
)
def test_times_keep_their_digits(seconds, text):
    assert summary.milliseconds(seconds) == text


def test_tables_are_aligned_and_markdown_is_escaped():
    columns, rows = [Column("a\nb", left=True), Column("c")], [["x", "1"], ["longer", "22"]]
    assert table.plain(columns, rows).splitlines() == ["a", "b        c", "----------", "x        1", "longer  22"]
    assert table.markdown(columns, [["a|b", Cell("1", "red")]]).splitlines() == [
        "| a b | c |",
        "|---|---:|",
        "| a\\|b | 1 |",
    ]


def test_weak_figures_are_named():
    noisy = measured("fastlstm", 1e-3, noise=0.5, rounds=3, other_load=1.5, settle_s=1.0)
    quiet = measured("numpy", 1e-3, case=CASE._replace(name="fine"))
    quiet.peak_gflops = dict.fromkeys(range(20), 70.0)
    lines = "\n".join(caveats.warnings(document(noisy, quiet)))
    assert "other processes kept" in lines and "1.5 cores" in lines
    assert "peak at 1 thread went from 70 to 100" in lines
    assert "only 3 rounds" in lines and "spread" in lines and "kept spinning" in lines
    assert caveats.warnings(document(measured("fastlstm", 1e-3))) == []


def test_the_page_is_whole_and_needs_no_network():
    html = page.render(full())
    assert not re.search(r"""(src|href|url)\s*[=(]\s*["']?\s*(https?:)?//""", html)
    assert "<script" not in html and "@import" not in html
    for heading in (
        "Speed against each rival",
        "Roofline",
        "Thread scaling",
        "Latency of stream steps",
        "Starting",
        "Raw table",
    ):
        assert heading in html
    for case in CASES.values():
        assert ("named" not in case.tags) or html.count(case.name) > 10
    charts = re.findall(r"<svg viewBox=.0 0 .*?</svg>", html, re.S)
    assert len(charts) == 6 + 6 + 3 + 28 + 1
    for chart in charts:
        ElementTree.fromstring(chart)


def test_the_page_shows_what_there_is():
    html = page.render(
        document(measured("fastlstm", 1e-3), failed("torch", "hung", "no answer <within> 3 s"), limits=False)
    )
    assert "no answer &lt;within&gt; 3 s" in html and "<within>" not in html
    for absent in ("Roofline", "Thread scaling", "Latency of stream steps", "Starting"):
        assert absent not in html


def test_names_from_a_file_cannot_smuggle_markup():
    evil = CASE._replace(name="<script>alert(1)</script>")
    html = page.render(document(measured("fastlstm", 1e-3, case=evil), measured("<img src=x>", 2e-3, case=evil)))
    assert "<script" not in html and "<img" not in html


def test_the_png_is_drawn(tmp_path):
    pytest.importorskip("matplotlib")
    from lstm_bench import drawing

    target = tmp_path / "charts.png"
    drawing.save(full(threads=(1,)), str(target))
    assert target.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n" and target.stat().st_size > 20_000
