"""The last stored measurements as tables of a document: `python -m benchmarks --write docs/performance.md`.

A document marks their places by `<!-- benchmarks: pairs -->`, or `plan`, `load` or `pages`, and
`<!-- end of benchmarks -->`.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks import page_times, visitors
from benchmarks.growth import plan
from benchmarks.harness import BUSY, Pair, Record, Row, recorded_code
from core.errors import BadRequest
from core.files import write_atomically
from trainer.reporting.markdown import table

_BLOCK = re.compile(r"(<!-- benchmarks: (\w+) -->\n).*?(<!-- end of benchmarks -->)", re.DOTALL)
OLDER = "; measured with older code"  # than that which writes the document
HEAD = ("what", "Lowshot", "peer", "times as good", "of the limit", "goal")


def cells(row: Row) -> list[str]:
    """Format a row for a table, without its note."""
    goal, met = row.goal
    share = "" if row.limit_share is None else f"{row.limit_share:.0%}"
    verdict = f"{goal}: {'reached' if met else 'missed'}" if goal else ""
    return [f"{row.what}, {row.unit}", *map(_number, (row.ours, row.peer, row.ratio)), share, verdict]


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def pairs_text(pairs: Sequence[Pair], results: Mapping[str, Record]) -> str:
    """Return a section for each measured pair: its table, notes on quality, where and when; and which are missing."""
    sections, missing = [], []
    for pair in pairs:
        record = results.get(pair.name)
        if not record or not record.is_complete:
            missing.append(pair.title)
            continue
        rows = pair.rows(record.measured)
        notes = "".join(f"- {row.what}: {row.note}.\n" for row in rows if row.note)
        turns = "Each size once" if record.turns == 1 else f"Medians of {record.turns} alternating runs"
        where = _where(record, turns)
        sections.append(f"### {pair.title}\n\n{table(HEAD, [cells(row) for row in rows])}\n\n{notes}\n{where}\n")
    if missing:
        sections.append(f"Not measured yet; `make bench` does it: {'; '.join(missing)}.\n")
    return "\n".join(sections)


def _where(record: Record, how: str) -> str:
    busy = f"; other programs used up to {record.busy:.0%} of the processors" if record.busy > BUSY else ""
    versions = ", ".join(f"{name} {number}" for name, number in record.versions.items())
    code = f", code {record.code}" if record.code else ""
    older = OLDER if record.code != recorded_code() else ""
    return f"{how} on {record.machine}{code}, {record.date}{older}{busy}. {versions}."


def load_text(results: Mapping[str, Record]) -> str:
    """Return the latencies of many visitors at once as a table, and the memory of their server."""
    record = results.get(visitors.NAME)
    if not record or not record.is_complete:
        return "Not measured yet; `make load` does it.\n"
    *taken, memory = visitors.rows(record)
    (crowd,) = record.measured[visitors.VISITORS]
    body = [[row["what"], _number(row["median"]), _number(row["p95"]), *map(str, (row["times"], row["errors"]))]
            for row in taken]  # fmt: skip
    verdict = "flat" if memory["flat"] else "**not flat**"
    return (
        f"{table(('what', 'median', '95th percentile', 'times', 'errors'), body)}\n\n"
        f"- Pages that showed what belongs to another visitor: {crowd['not_their_own']}.\n"
        f"- Memory of the server: {memory['half']:,} MiB after half the time and {memory['last']:,} MiB at the end. A "
        f"line fitted to the second half grows by {memory['growth']:.1%}: {verdict}, as less than "
        f"{memory['most_growth']:.0%} is. With its training jobs it held {memory['peak_with_jobs']:,} MiB at most.\n\n"
        f"{_where(record, _crowd_text(crowd))}\n"
    )


def _crowd_text(crowd: Mapping[str, int]) -> str:
    doing = ", ".join(f"{crowd[name]} {words}" for name, words in visitors.DOING.items())
    return f"{crowd['users']} visitors for {crowd['seconds'] / 60:.3g} minutes ({doing})"


def pages_text(results: Mapping[str, Record]) -> str:
    """Return a table of the times of pages for each measured run store."""
    sections = []
    for name, record in results.items():
        if name.split()[0] != page_times.NAME:
            continue
        body = []
        for what, (values,) in record.measured.items():
            if what != page_times.STORE:
                goal = "at most {:g} s and {:g} s".format(*page_times.limits(what))
                reached = "missed" if page_times.is_slow(what, values) else "reached"
                verdict = "the limit" if what == page_times.LIMIT else f"{goal}: {reached}"
                body.append([what, f"{values['cold']:.1f}", f"{values['warm']:.1f}", verdict])
        (store,) = record.measured[page_times.STORE]
        where = _where(record, f"A store of {store['runs']:,} runs")
        sections.append(f"{table(('page', 'cold, s', 'warm, s', 'goal'), body)}\n\n{where}\n")
    return "\n".join(sections) or "Not measured yet; `python -m benchmarks.page_times` does it.\n"


def plan_text(results: Mapping[str, Record]) -> str:
    """Return the planned sizes as a table."""
    planned = plan(results)
    if not planned:
        return "Not measured yet; `make bench` does it.\n"
    rows = [[_number(value) for value in row.values()] for row in planned]
    return f"{table(list(planned[0]), rows)}\n"


def write_document(path: Path, pairs: Sequence[Pair], results: Mapping[str, Record]) -> bool:
    """Update the tables of a document in place; return whether it changed.

    Raises:
        BadRequest: if it does not exist, or marks no place for them.
    """
    texts = {
        "pairs": pairs_text(pairs, results), "plan": plan_text(results), "load": load_text(results),
        "pages": pages_text(results),
    }  # fmt: skip
    before = path.read_text() if path.is_file() else ""
    marked = {block[2] for block in _BLOCK.finditer(before)}
    if not marked or marked - set(texts):
        raise BadRequest(f"Expected {path} to have a place for one of {', '.join(texts)}: <!-- benchmarks: pairs -->.")
    after = _BLOCK.sub(lambda block: f"{block[1]}{texts[block[2]]}{block[3]}", before)
    if after != before:
        write_atomically(path, after.encode())
    return after != before
