"""Tables of documents, filled anew from the run store by `python -m trainer results --write README.md`.

A document marks the place of a table by a comment of one of these kinds and `<!-- end of results -->`:

- `<!-- results: DATASET at SIZE -->`: every model and strategy as it is by default, with the headline metrics;
- `<!-- sizes: DATASET at SIZE,SIZE -->`: every series that has runs at all these sizes, with its AUROC at each;
- `<!-- variants: DATASET at SIZE -->`: what a departure from a strategy's own settings changes;
- `<!-- external: DATASET at SIZE -->`: own test and elsewhere side by side, with the difference;
- `<!-- shortcuts: DATASET at SIZE -->`: whether the border or the corners alone tell the classes apart, in sentences.

`... at SIZE of CLASS` judges one class against the rest.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from core.checkpoints import RunMeta, Store
from core.data.specs import find_dataset
from core.errors import BadRequest, LowshotError
from core.external import by_view, external_sets
from core.judged import target_named
from core.metrics import METRICS, Estimate
from core.models import MODELS
from core.results import Run, Series, comparison_proper, difference, estimate, runs_by_series
from core.shortcuts import shortcuts_of
from core.storage import write_atomically
from trainer.markdown import table

HEADLINE = ("auroc", "balanced_accuracy", "accuracy", "sensitivity", "specificity")
SHOWN = ("auroc", "balanced_accuracy")
_BLOCK = re.compile(r"(<!-- (\w+): (\S+) at (\S+)(?: of (\S+))? -->\n).*?(<!-- end of results -->)", re.DOTALL)
Size = int | None


def headline_table(store: Store, dataset: str, sizes: list[Size], of: str | None = None) -> str:
    """A row for each model and strategy as it is by default, at one training-set size.

    Each figure is the mean over seeds with the 95% bootstrap interval over test images, groups drawn whole.

    Raises:
        BadRequest: if no run of that size is stored.
    """
    at_size = _at(store, dataset, sizes[0])
    series = {key: at_size[key] for key in comparison_proper(at_size)}
    if not series:
        raise _missing(dataset, sizes)
    target = _target(series, of)
    rows = [[*_named(key), str(len(runs)), *_figures(runs, HEADLINE, target)] for key, runs in series.items()]
    every = [meta for meta in _metas(store, dataset) if not meta.variant]
    devices = " and ".join(sorted({meta.device for meta in every}))
    return (
        table(["family", "model", "strategy", "seeds", *(METRICS[name].title for name in HEADLINE)], rows)
        + f"\n\n{_rest(of)}"
        f"Mean over seeds (95% interval over the {_images(series, target)} test images, {_drawn(dataset)}), at the "
        f"operating point fitted inside each training subset. Training and judging the {len(every)} stored runs of "
        f"this data set took {sum(meta.seconds for meta in every) / 60:.0f} minutes on {devices}.\n"
    )


def size_table(store: Store, dataset: str, sizes: list[Size], of: str | None = None) -> str:
    """A row for each series that has runs at all of some sizes, with its AUROC at each.

    Raises:
        BadRequest: if there is no such series.
    """
    columns = [_at(store, dataset, size) for size in sizes]
    complete = [key for key in columns[0] if all(key in column for column in columns)]
    if not complete:
        raise _missing(dataset, sizes)
    target = _target(columns[0], of)
    rows = [
        [*_named(key), str(min(len(column[key]) for column in columns))]
        + [_figures(column[key], ("auroc",), target)[0] for column in columns]
        for key in complete
    ]
    return (
        table(["family", "model", "strategy", "seeds", *(_said(size) for size in sizes)], rows) + f"\n\n{_rest(of)}"
        f"AUROC, the mean over seeds (95% interval over the {_images(columns[0], target)} test images, "
        f"{_drawn(dataset)}), by labelled images per class. At one size and seed every row learns from the same "
        "images.\n"
    )


def variant_table(store: Store, dataset: str, sizes: list[Size], of: str | None = None) -> str:
    """What each variant of a series changes against the series itself, at one training-set size.

    Raises:
        BadRequest: if no series has a variant there.
    """
    series = _at(store, dataset, sizes[0])
    rows, target = [], _target(series, of)
    for key, runs in series.items():
        plain = series.get(key.default)
        if not plain or not any(other.default == key.default != other for other in series):
            continue
        changes = difference(*_shared(runs, plain), SHOWN, target).values() if key != key.default else ()
        rows.append(
            [*_named(key), str(len(runs)), *_figures(runs, SHOWN, target)]
            + ([_signed(one) for one in changes] or ["–"] * len(SHOWN))
        )
    if not rows:
        raise _missing(dataset, sizes)
    titles = [METRICS[name].title for name in SHOWN]
    return (
        table(["family", "model", "strategy", "seeds", *titles, *(f"change of {title}" for title in titles)], rows)
        + f"\n\n{_rest(of)}"
        f"Mean over seeds, and difference from the same model and strategy by default on the same subsets (95% "
        f"intervals over the {_images(series, target)} test images, {_drawn(dataset)}), {_said(sizes[0])}.\n"
    )


def shortcut_sentences(store: Store, dataset: str, sizes: list[Size], of: str | None = None) -> str:
    """What the border and the corners of the images give away, a sentence each.

    Raises:
        BadRequest: if that was not asked at this size.
    """
    found = [one for one in shortcuts_of(store, dataset) if one.size == sizes[0]]
    if not found:
        raise _missing(dataset, sizes)
    return "".join(f"- {one.sentence}\n" for one in found)


def external_table(store: Store, dataset: str, sizes: list[Size], of: str | None = None) -> str:
    """A row for each series, external test set and view: own test, elsewhere and the difference, in AUROC.

    Raises:
        BadRequest: if no run of that size was evaluated on an external set, or one class is asked for.
    """
    if of:
        raise BadRequest(f"A table of external test sets is of all shared classes; leave out 'of {of}'.")
    rows, sets = [], dict[str, str]()
    for key, runs in _at(store, dataset, sizes[0]).items():
        for name in external_sets(runs) if not key.variant else ():
            for one in by_view(runs, name, ("auroc",)):
                own, there, drop = one.own["auroc"], one.there["auroc"], one.drop["auroc"]
                sets[name] = f"{one.record.title}: {', '.join(one.record.labels)}. {one.record.caveat}".strip()
                figures = [f"{e.value:.3f} ({e.low:.3f} to {e.high:.3f})" for e in (own, there)]
                change = f"{drop.effect:+.3f} ({drop.low:+.3f} to {drop.high:+.3f})"
                named = f"{name}, same archive" if one.record.same_archive else name
                rows.append([*_named(key), str(one.seeds), named, one.view or "all", *figures, change])
    if not rows:
        raise _missing(dataset, sizes)
    head = ["family", "model", "strategy", "seeds", "external set", "views", "own test", "elsewhere"]
    return (
        table([*head, "own minus elsewhere"], rows) + f"\n\nAUROC on the shared classes, {_said(sizes[0])}: mean over "
        "seeds (95% interval over patients). The difference has its 95% interval over seeds and the patients of both "
        f"sets. {' '.join(sets.values())}\n"
    )


TABLES: dict[str, Callable[[Store, str, list[Size], str | None], str]] = {
    "results": headline_table, "sizes": size_table, "variants": variant_table, "shortcuts": shortcut_sentences,
    "external": external_table,
}  # fmt: skip


def with_tables(text: str, store: Store) -> str:
    """A document with every table filled anew."""

    def fill(block: re.Match[str]) -> str:
        if block[2] not in TABLES:
            raise BadRequest(f"Expected a table of the kind {', '.join(TABLES)}, but got {block[2]!r}.")
        sizes = [None if size == "full" else int(size) for size in block[4].split(",")]
        return f"{block[1]}{TABLES[block[2]](store, block[3], sizes, block[5])}{block[6]}"

    return _BLOCK.sub(fill, text)


def write_tables(path: Path, store: Store) -> bool:
    """Fills the tables of a document in place; returns whether it changed."""
    before = path.read_text()
    after = with_tables(before, store)
    if after != before:
        write_atomically(path, after.encode())
    return after != before


def _metas(store: Store, dataset: str) -> list[RunMeta]:
    return [meta for meta in store.metas(dataset) if not meta.leaks]


def _at(store: Store, dataset: str, size: Size) -> dict[Series, list[Run]]:
    return runs_by_series(store, [meta for meta in _metas(store, dataset) if meta.train_size == size])


def _shared(runs: list[Run], others: list[Run]) -> tuple[list[Run], list[Run]]:
    """The runs of both sides whose seed both have."""
    seeds = {meta.seed for _, meta in runs} & {meta.seed for _, meta in others}
    kept = [[run for run in side if run[1].seed in seeds] for side in (runs, others)]
    return kept[0], kept[1]


def _named(key: Series) -> list[str]:
    return [
        MODELS[key.model].family,
        f"`{key.model}`",
        f"{key.strategy} ({key.variant})" if key.variant else key.strategy,
    ]


def _figures(runs: list[Run], names: tuple[str, ...], target: int | None) -> list[str]:
    found = estimate(runs, names, target)
    return [f"{e.value:.3f} ({e.low:.3f} to {e.high:.3f})" for e in (found[name] for name in names)]


def _signed(change: Estimate) -> str:
    return f"{change.value:+.3f} ({change.low:+.3f} to {change.high:+.3f})"


def _target(series: dict[Series, list[Run]], of: str | None) -> int | None:
    return target_named(next(iter(series.values()))[0][1], of) if of and series else None


def _rest(of: str | None) -> str:
    return f"{of} against the rest. " if of else ""


def _images(series: dict[Series, list[Run]], target: int | None) -> int:
    """Test images that count: of a finding those whose label is known."""
    return estimate(next(iter(series.values())), ("auroc",), target)["auroc"].n


def _drawn(dataset: str) -> str:
    """What the bootstrap draws whole, in words: patients, lesions, or images where nothing keeps them together."""
    try:
        key = find_dataset(dataset).group_key
    except LowshotError:
        key = "group"
    return f"drawn by {key}, copies together"


def _said(size: Size) -> str:
    return f"{size} a class" if size else "all training images"


def _missing(dataset: str, sizes: list[Size]) -> BadRequest:
    return BadRequest(f"No table of {dataset} can be made for {', '.join(map(_said, sizes))}: runs are not stored.")
