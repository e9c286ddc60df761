"""The report: one HTML page that needs nothing else, for a desk or a phone, in light or dark."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from html import escape
from pathlib import Path

from . import caveats, charts, stats, summary
from .cases import MODES
from .results import Document, Measurement
from .table import Cell, Column, Row

_STYLE = Path(__file__).with_name("style.css")


def render(document: Document) -> str:
    """The whole page."""
    sections = (_speed, _roofline, _scaling, _latency, _starts, _main_table, _raw_table, _notes, _machine)
    body = _head(document) + "".join(section(document) for section in sections)
    title = escape(f"LSTM on {document.machine['cpu']}")
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}</title><style>{_STYLE.read_text(encoding='utf-8')}</style></head><body>{body}</body></html>\n"
    )


def _head(document: Document) -> str:
    """What, where, when, and the figures to take home."""
    told, settings = document.machine, document.settings
    threads = " and ".join(map(str, settings["threads"]))
    facts = (
        f"{told['cores']} cores, {threads} thread{'s' * (threads != '1')}, {settings['dtype']}, {document.created[:10]}"
    )
    rivals = ", ".join(summary.rivals(document)) or "nobody"
    unfinished = "" if document.complete else "<p><b>This run was interrupted; what it finished is here.</b></p>"
    return (
        f"<header><h1>LSTM on {escape(told['cpu'])}</h1><p class='soft'>{escape(document.subject)} beside "
        f"{escape(rivals)}: {escape(facts)}</p>{unfinished}</header>{_tiles(document)}"
    )


def _tiles(document: Document) -> str:
    """Means and the peak, large."""
    tiles = []
    for mean in summary.means(document):
        words = f"{mean.mode}, {charts.plural(mean.threads)}: over the fastest rival, mean of {mean.cases} cases"
        tiles.append((f"{mean.mean:.2f}x", f"{words}; least {mean.least:.2f} at {mean.case}"))
    for limits in document.limits:
        threads = f"{limits.threads} thread{'s' * (limits.threads > 1)}"
        tiles.append((f"{limits.peak_gflops:.0f} GFLOP/s", f"multiply-add peak, {threads}, measured in this run"))
    cells = "".join(
        f"<div class='tile'><b>{escape(figure)}</b><span>{escape(words)}</span></div>" for figure, words in tiles
    )
    return f"<div class='tiles'>{cells}</div>" if cells else ""


def _heading(title: str, words: str) -> str:
    return f"<section><h2>{escape(title)}</h2><p class='soft'>{escape(words)}</p>"


def _section(title: str, words: str, drawn: Iterable[str], before: str = "") -> str:
    """A heading with its charts; nothing where no chart has anything to show."""
    shown = "".join(drawn)
    if not shown:
        return ""
    return f"{_heading(title, words)}{before}<div class='charts'>{shown}</div></section>"


def _each(document: Document, draw: Callable[[Document, str, int], str]) -> Iterable[str]:
    """A chart for every mode and thread count."""
    return (draw(document, mode, threads) for threads in document.settings["threads"] for mode in MODES)


def _speed(document: Document) -> str:
    words = "Ratios of times taken in turn, in the same rounds; a mark at 2x is a rival that takes twice as long."
    rivals = [label for label in summary.rivals(document) if document.engines[label].status == "ok"]
    return _section("Speed against each rival", words, _each(document, charts.speed), charts.legend(rivals))


def _roofline(document: Document) -> str:
    words = "How much of the machine is used. Slopes are read bandwidths over a buffer that size in each thread."
    return _section("Roofline", words, _each(document, charts.roofline_chart))


def _scaling(document: Document) -> str:
    drawn = (charts.scaling(document, mode) for mode in MODES)
    return _section("Thread scaling", "Speed with more threads over speed with the fewest.", drawn)


def _latency(document: Document) -> str:
    drawn = (charts.latency(name, threads, group) for (name, mode, _, threads), group in document.groups().items()
             if mode == "stream")  # fmt: skip
    return _section("Latency of stream steps", "One step a call, the state kept in between.", drawn)


def _starts(document: Document) -> str:
    return _section("Starting", "Seconds from starting Python to the first result.", [charts.starts(document)])


def _html_table(columns: Sequence[Column], rows: Sequence[Row]) -> str:
    def cell(value: Cell | str, column: Column) -> str:
        content, colour = value if isinstance(value, Cell) else (value, None)
        classes = " ".join(filter(None, ("left" if column.left else "", colour or "")))
        return f"<td class='{classes}'>{escape(content)}</td>" if classes else f"<td>{escape(content)}</td>"

    heads = "".join(f"<th{' class=left' * c.left}>{escape(c.heading).replace(chr(10), '<br>')}</th>" for c in columns)
    lines = ("".join(cell(value, column) for value, column in zip(row, columns, strict=True)) for row in rows)
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    return f"<div class='wide'><table><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table></div>"


def _main_table(document: Document) -> str:
    words = "Rivals' times in ms; the last column is our speed over the fastest's, ~ where it is uncertain by over 5 %."
    return f"{_heading('All cases', words)}{_html_table(*summary.table(document))}</section>"


def _mebibytes(value: int | None) -> str:
    return "" if value is None else f"{value / 2**20:.1f}"


def _raw_row(m: Measurement) -> Row:
    """Everything about one engine on one case."""
    name: list[Cell | str] = [m.case.name, m.mode, str(m.threads), m.engine]
    if m.status != "ok" or m.median_s is None:
        return [*name, m.status, *[""] * (len(_RAW_HEADS) - 5)]
    middle, odd = stats.median(m.rounds), stats.outliers(stats.pooled(m.rounds))
    deviations = [m.deviation.get(part) for part in ("y", "gradient")]
    samples = sum(map(len, m.rounds.values()))
    interval = f"{summary.milliseconds(middle.low)} - {summary.milliseconds(middle.high)}"
    strays = f"{odd.low_severe + odd.low_mild} / {odd.high_mild} / {odd.high_severe}"
    taken = [f"{summary.gflops(m):.1f}", str(len(m.rounds)), str(samples), str(m.loops)]
    first = "" if m.first_call_s is None else f"{m.first_call_s:.3f}"
    memory = [_mebibytes(m.peak_rss_bytes), _mebibytes(m.allocated_bytes)]
    off = ["" if deviation is None else f"{deviation:.0e}" for deviation in deviations]
    spread = f"{stats.relative_spread(m.rounds):.0%}"
    return [*name, summary.milliseconds(m.median_s), interval, *taken, spread, strays, first, *memory, *off]


_RAW_HEADS = (
    "case", "mode", "thr", "engine", "median\nms", "95 %\ninterval", "GFLOP/s", "rounds", "samples", "loops", "spread",
    "outliers: low\n/ mild / severe", "first call\ns", "peak\nMiB", "NumPy's\nMiB", "y off by", "gradient\noff by",
)  # fmt: skip


def _raw_table(document: Document) -> str:
    columns = [Column(head, left=head in ("case", "mode", "engine")) for head in _RAW_HEADS]
    words = "Every time with what it rests on; no sample was dropped. Peak is resident memory during one more run."
    table = _html_table(columns, [_raw_row(m) for m in document.measurements])
    return f"{_heading('Raw table', words)}{table}</section>"


def _notes(document: Document) -> str:
    lines = caveats.gaps(document) + caveats.warnings(document, most=20)
    items = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return f"<section><h2>Gaps and warnings</h2><ul class='notes'>{items}</ul></section>" if items else ""


def _machine(document: Document) -> str:
    known = dict(document.machine)
    caches = ", ".join(f"{level} {size}" for level, size in known.pop("caches", {}).items())
    pinned = ", ".join(f"{cores} at {threads}" for threads, cores in document.cores.items() if cores)
    facts = {**known, "caches": caches, "engines pinned to cores": pinned}
    facts["results held against"] = document.settings.get("reference")
    facts |= {label: info.version or info.detail for label, info in document.engines.items()}
    for limits in document.limits:
        reads = ", ".join(f"{size >> 10} KiB {gbs:.0f}" for size, gbs in limits.bandwidth_gbs.items())
        facts[f"reads at {limits.threads}, GB/s"] = reads
    items = "".join(
        f"<dt>{escape(str(name))}</dt><dd>{escape(str(value))}</dd>" for name, value in facts.items() if value
    )
    return f"<section><h2>Machine and versions</h2><dl>{items}</dl></section>"
