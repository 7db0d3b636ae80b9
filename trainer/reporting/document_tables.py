"""Result tables and figures in documents, updated from the run store by `python -m trainer results --write README.md`.

A document marks their places by one of these comments and `<!-- end of results -->`:

- `<!-- results: DATASET at SIZE -->`: every model and strategy with default settings, with the headline metrics;
- `<!-- contest: DATASET at SIZE,SIZE -->`: the series of the contest, with the AUROC of each at these sizes;
- `<!-- families: DATASET,DATASET at SIZE -->`: one row per data set, with the AUROC of the series that stands for each
  family, and of the plain loop;
- `<!-- sizes: DATASET at SIZE,SIZE -->`: every series with runs at all these sizes, with its AUROC at each;
- `<!-- variants: DATASET at SIZE -->`: the effect of settings that differ from a strategy's defaults;
- `<!-- finding: DATASET at SIZE,SIZE,SIZE -->`: the labeled images that each family needs, in a sentence;
- `<!-- answers: DATASET,DATASET at SIZE -->`: the protocol's questions, each with its verdicts counted in a sentence,
  and the mean AUROC of B on these data sets' test images and elsewhere;
- `<!-- external: DATASET at SIZE -->`: the series of the contest, internal and external test side by side, with the
  difference;
- `<!-- verdicts: DATASET at SIZE,SIZE -->`: the contrasts of the protocol at these sizes, in AUROC, each with its
  verdict, corrected by Holm over all contrasts of all data sets;
- `<!-- shortcuts: DATASET at SIZE -->`: whether the border or the corners alone separate the classes, in sentences;
- `<!-- costs: DATASET at SIZE,SIZE -->`: how long the stored runs took, and how long 10,000 more would take;
- `<!-- baselines: FAMILY,FAMILY at SIZE,SIZE -->`: the recipes against untuned baselines on development images, from
  the logs of `python -m trainer baselines`;
- `<!-- curves: DATASET at SIZE,SIZE -->`: the learning curves of the contest, a figure beside the document.

`... at SIZE of CLASS` evaluates one class against the rest.
"""

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from statistics import median
from typing import Any

from core.analysis.comparison import compare_all, learning_curves
from core.analysis.contest import (
    CONTRASTS,
    ENCODERS,
    FINDING_NOTE,
    NAMED,
    Contrast,
    answers,
    contestants,
    finding_text,
    headline,
    planned,
    verdicts,
)
from core.analysis.external import by_view, external_sets
from core.analysis.shortcuts import shortcuts_of
from core.data.augmentation import JOINED, NONE
from core.data.preprocessing import PREPROCESSING
from core.data.specs import find_dataset
from core.errors import BadRequest, LowshotError
from core.files import write_atomically
from core.metrics import METRICS
from core.metrics.comparisons import MIN_SEEDS, Difference, format_p
from core.metrics.equivalence import MARGIN
from core.models import FAMILY_LETTERS, MODELS
from core.runs import RunMeta, Store
from core.runs.scores import decision_rule, target_named
from core.runs.series import Run, Series, comparison_proper, estimate, runs_by_series, summarize
from trainer.reporting.baselines import baseline_table
from trainer.reporting.document_figures import write_curves
from trainer.reporting.markdown import table
from trainer.reporting.run_lines import HEADLINE

SHOWN = ("auroc", "balanced_accuracy")
MANY_RUNS, WORKERS = 10_000, (2, 64, 256)  # runs of a large study, and trainings at the same time
_BLOCK = re.compile(r"(<!-- (\w+): (\S+) at (\S+)(?: of (\S+))? -->\n).*?(<!-- end of results -->)", re.DOTALL)
Size = int | None


def headline_table(store: Store, dataset: str, sizes: list[Size], of: str | None = None) -> str:
    """Return a row for each model and strategy with default settings, at one training-set size.

    Each value is the mean over seeds with its 95% intervals over test patients and over seeds, side by side.

    Raises:
        BadRequest: if no run of that size is stored.
    """
    at_size = _at(store, dataset, sizes[0])
    series = {key: at_size[key] for key in comparison_proper(at_size)}
    if not series:
        raise _missing(dataset, sizes)
    target = _target(series, of)
    rows = [[*_named(key), str(len(runs)), *_figures(runs, HEADLINE, target)] for key, runs in series.items()]
    default_runs = [meta for meta in _metas(store, dataset) if not meta.variant]
    devices = " and ".join(sorted({meta.device for meta in default_runs}))
    head = ["family", "model", "strategy", "seeds", *(METRICS[name].title for name in HEADLINE)]
    return _with_note(
        table(head, rows),
        of,
        f"Mean over seeds with 95% intervals: {_intervals(dataset, series, target)} "
        f"{decision_rule(next(iter(series.values()))[0].meta, target)} Training and evaluating the "
        f"{len(default_runs)} stored runs of this data set took "
        f"{sum(meta.seconds for meta in default_runs) / 60:.0f} minutes on {devices}.",
    )


def size_table(store: Store, dataset: str, sizes: list[Size], of: str | None = None) -> str:
    """Return a row for each series that has runs at all given sizes, with its AUROC at each.

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
    return _with_note(
        table(["family", "model", "strategy", "seeds", *map(_size_text, sizes)], rows),
        of,
        f"AUROC, the mean over seeds, by labeled images per class, with 95% intervals: "
        f"{_intervals(dataset, columns[0], target)} At one size and seed every row learns from the same "
        "images.",
    )


def contest_table(store: Store, dataset: str, sizes: list[Size], of: str | None = None) -> str:
    """Return a row for each series that takes part in a contrast of the protocol, with its AUROC at some sizes.

    Raises:
        BadRequest: if none has runs at any of these sizes.
    """
    columns = [_at(store, dataset, size) for size in sizes]
    shown = [key for key in _contrasted() if any(key in column for column in columns)]
    if not shown:
        raise _missing(dataset, sizes)
    stored = {key: column[key] for column in columns for key in shown if key in column}
    target = _target(stored, of)
    rows = [
        _named(key)
        + [_figures(column[key], ("auroc",), target)[0] if key in column else "–" for column in columns]
        for key in shown
    ]  # fmt: skip
    return _with_note(
        table(["family", "model", "strategy", *map(_size_text, sizes)], rows),
        of,
        f"AUROC, the mean over seeds, with 95% intervals: {_intervals(dataset, stored, target)} At one size and seed "
        "every row learns from the same images. A dash: not stored.",
    )


def families_table(store: Store, datasets: str, sizes: list[Size], of: str | None = None) -> str:
    """Return a row for each data set, with the AUROC of the series that stands for each family at one size.

    Args:
        store: the run store.
        datasets: names of data sets, joined by commas; those without runs of the contest are left out.
        sizes: the training-set size.
        of: a class, which is refused.
    Raises:
        BadRequest: if no data set has such runs, or one class is named.
    """
    _whole_task(of)
    rows = []
    for dataset in datasets.split(","):
        series = _at(store, dataset, sizes[0])
        names = {family: name for family, name in contestants(series).items() if name in _contrasted()}
        cells = [_figures(series[names[family]], ("auroc",), None)[0] if family in names else "–" for family in NAMED]
        if names:
            title = series[next(iter(names.values()))][0].meta.dataset_title
            encoder = next((name for name, (b, _) in ENCODERS.items() if b in names.values()), "–")
            rows.append([title, *cells, encoder])
    if not rows:
        raise _missing(datasets, sizes)
    return (
        f"{table(['data set', *NAMED, 'encoder of B, C and the plain loop'], rows)}\n\nAUROC, the mean over seeds, "
        f"{_size_text(sizes[0])}, with 95% intervals over test patients (these seeds) and over seeds (these test "
        "images). A dash: not stored.\n"
    )


def variant_table(store: Store, dataset: str, sizes: list[Size], of: str | None = None) -> str:
    """Return the difference of each variant of a series from its reference, at one training-set size.

    The reference has the strategy's own settings or, where they are not stored, no ingredient of the ablation.

    Raises:
        BadRequest: if no series has a variant there.
    """
    series = _at(store, dataset, sizes[0])
    target = _target(series, of)
    references = {key: _reference(key, series) for key in series}
    pairs = [(key, reference) for key, reference in references.items() if reference and reference != key]
    if not pairs:
        raise _missing(dataset, sizes)
    changes = compare_all(series, SHOWN, target, pairs)
    cells = {reference: ["–"] * len(SHOWN) for _, reference in pairs}
    for (key, _), row in changes.items():
        cells[key] = [f"{row[name].interval_text()}: {row[name].verdict}" for name in SHOWN]
    rows = [
        [*_named(key), str(len(runs)), *_figures(runs, SHOWN, target), *cells[key]]
        for key, runs in series.items()
        if key in cells
    ]
    titles = [METRICS[name].title for name in SHOWN]
    return _with_note(
        table(["family", "model", "strategy", "seeds", *titles, *(f"change of {title}" for title in titles)], rows),
        of,
        f"{_size_text(sizes[0]).capitalize()}: mean over seeds with 95% intervals: "
        f"{_intervals(dataset, series, target)} Change: difference from the row of the same model and strategy with a "
        f"dash, on the same subsets, {_verdicts(change for row in changes.values() for change in row.values())}",
    )


def _reference(key: Series, series: Collection[Series]) -> Series | None:
    """Return the series that a variant is compared with; None if it is not stored, or if several could be meant.

    An ablation states augmentation and preprocessing in all its runs, so that none has the strategy's own settings.
    """
    if key.default in series:
        return key.default
    settings, _ = _ablated(key)
    same = [
        other
        for other in series
        if other[:2] == key[:2] and other.is_old == key.is_old and _ablated(other) == (settings, True)
    ]
    return same[0] if "augment=" in key.variant and len(same) == 1 else None


def _ablated(key: Series) -> tuple[dict[str, str], bool]:
    """Return the settings of a series but those of an ablation, and whether it has none of an ablation's ingredients.

    It then has no augmentation, and no preprocessing but steps that stand for others.
    """
    settings = dict(part.partition("=")[::2] for part in key.variant.split(", "))
    augmentation, steps = settings.pop("augment", ""), settings.pop("preparation", "").split(JOINED)
    substitutes = {step.replaced_by for step in PREPROCESSING.values()}
    return settings, augmentation == NONE and substitutes.issuperset(steps)


def verdict_table(store: Store, dataset: str, sizes: list[Size], of: str | None = None) -> str:
    """Return a row for each contrast of the protocol on a data set at some sizes, with its verdict.

    Raises:
        BadRequest: if no such contrast is stored, or one class is named.
    """
    _whole_task(of)
    differences = verdicts(store)
    shown = {at: difference for at, difference in differences.items() if at.dataset == dataset and at.size in sizes}
    if not shown:
        raise _missing(dataset, sizes)
    rows = [_verdict_row(at, difference)[1:] for at, difference in shown.items()]
    return f"{table(_VERDICT_HEAD[1:], rows)}\n\n{_verdict_note(shown)}\n"


def every_verdict(store: Store) -> str:
    """Return every contrast of the protocol with its verdict; those whose runs are not stored are marked.

    Raises:
        BadRequest: if none is stored.
    """
    differences = verdicts(store)
    if not differences:
        raise BadRequest("No contrast of the protocol is stored. Train both sides of one: see docs/protocol.md.")
    rows = [
        _verdict_row(at, row) if (row := differences.get(at)) else [at.dataset, at.title, _size_text(at.size), *"–––––"]
        for at in planned()
    ]
    return f"{table(_VERDICT_HEAD, rows)}\n\n{_verdict_note(differences)} A dash: not run.\n"


_VERDICT_HEAD = ["data set", "contrast", "size", "seeds", "difference of AUROC", "p", "p of equivalence", "verdict"]


def _verdict_row(at: Contrast, difference: Difference) -> list[str]:
    first, _, second = at.title.partition(",")[0].partition(" against ")
    p_values = [format_p(p) for p in (difference.holm, difference.holm_equivalence)]
    return [
        at.dataset, at.title, _size_text(at.size), str(difference.seeds), difference.interval_text(), *p_values,
        difference.verdict_text(first, second),
    ]  # fmt: skip


def _verdict_note(differences: Mapping[Contrast, Difference]) -> str:
    titles = {at.title for at in differences}
    names = "; ".join(
        f"{title}: `{first.model}` {first.strategy} minus `{second.model}` {second.strategy}"
        for title, (first, second, _) in CONTRASTS.items()
        if title in titles
    )
    return f"{names}. Differences are {_verdicts(differences.values())}"


def _verdicts(differences: Iterable[Difference]) -> str:
    """Describe how differences are tested, as the end of a sentence."""
    contrasts = max(difference.contrasts for difference in differences)
    return (
        "with the 95% interval over seeds and test patients together. Verdicts: different (p below .05), equivalent "
        f"(two one-sided tests within {MARGIN:g}, p below .05) or undecided, both p corrected by Holm over "
        f"{contrasts} {'contrast' if contrasts == 1 else 'contrasts'} of a metric; below {MIN_SEEDS} common seeds "
        "there is no verdict."
    )


def finding_sentence(store: Store, dataset: str, sizes: list[Size], of: str | None = None) -> str:
    """Return how many labeled images the families of the contest need for the same AUROC, by their learning curves.

    Raises:
        BadRequest: if fewer than two contestants, the plain loop counted, have runs at three of these sizes.
    """
    metas = [meta for meta in _metas(store, dataset) if meta.train_size and meta.train_size in sizes]
    series = runs_by_series(store, metas)
    names = contestants(series)
    target = _target(series, of)
    fits = learning_curves({name: series[name] for name in names.values()}, "auroc", target)[1]
    finding = headline({family: fits[name] for family, name in names.items() if name in fits})
    if finding is None:
        raise _missing(dataset, sizes)
    title = f"{metas[0].dataset_title}, {of} against the rest" if of else metas[0].dataset_title
    return f"{finding_text(title, METRICS['auroc'], finding, names)} {FINDING_NOTE}\n"


def answer_sentences(store: Store, datasets: str, sizes: list[Size], of: str | None = None) -> str:
    """Return the protocol's questions, each with its answer, and what B loses on images from elsewhere.

    Args:
        store: the run store.
        datasets: names of data sets, joined by commas.
        sizes: the training-set size of the results elsewhere.
        of: a class, which is refused.
    Raises:
        BadRequest: if no contrast is stored, a data set has no B at this size, or one class is named.
    """
    _whole_task(of)
    differences = verdicts(store)
    if not differences:
        raise _missing(datasets, sizes)
    lines = answers(differences)
    for dataset in datasets.split(","):
        series = _at(store, dataset, sizes[0])
        if (b := contestants(series).get("B")) is None:
            raise _missing(dataset, sizes)
        title = series[b][0].meta.dataset_title
        for name in external_sets(series[b]):
            result = by_view(series[b], name, ("auroc",))[0]
            lines.append(
                f"How much is lost elsewhere? {title}, B (`{b.model}`) with {_size_text(sizes[0])}: "
                f"{result.sentence('auroc')}"
            )
    return "".join(f"- {line}\n" for line in lines)


def shortcut_sentences(store: Store, dataset: str, sizes: list[Size], of: str | None = None) -> str:
    """Return what the border and the corners of the images reveal about the classes, in one sentence each.

    Raises:
        BadRequest: if this was not tested at this size.
    """
    results = [result for result in shortcuts_of(store, dataset) if result.size == sizes[0]]
    if not results:
        raise _missing(dataset, sizes)
    return "".join(f"- {result.sentence}\n" for result in results)


def external_table(store: Store, dataset: str, sizes: list[Size], of: str | None = None) -> str:
    """Return a row for each series of the contest, external set and view: internal and external AUROC, and the loss.

    Where none of the contest was evaluated, all with default settings are shown.

    Raises:
        BadRequest: if no such run of that size was evaluated on an external set, or one class is named.
    """
    _whole_task(of)
    rows, sets = [], dict[str, str]()
    series = _at(store, dataset, sizes[0])
    evaluated = [key for key, runs in series.items() if not key.variant and external_sets(runs)]
    for key in [key for key in _contrasted() if key in evaluated] or evaluated:
        runs = series[key]
        for name in external_sets(runs):
            for result in by_view(runs, name, ("auroc",)):
                own, external, drop = result.own["auroc"], result.external["auroc"], result.drop["auroc"]
                sets[name] = f"{result.record.title}: {', '.join(result.record.labels)}. {result.record.caveat}".strip()
                title = f"{name}, same archive" if result.record.same_archive else name
                figures = [f"{own:.3f}", f"{external:.3f}", drop.interval_text()]
                rows.append([*_named(key), str(result.seeds), title, result.view or "all", *figures])
    if not rows:
        raise _missing(dataset, sizes)
    head = ["family", "model", "strategy", "seeds", "external set", "views", "internal test", "external test"]
    return (
        table([*head, "internal minus external"], rows)
        + f"\n\nAUROC on the shared classes, {_size_text(sizes[0])}: mean over "
        "seeds (95% interval over patients). The difference has its 95% interval over seeds and the patients of both "
        f"sets. {' '.join(sets.values())}\n"
    )


def cost_table(store: Store, dataset: str, sizes: list[Size], of: str | None = None) -> str:
    """Return the median seconds of stored runs with default settings at some sizes, and the hours of 10,000 like them.

    Raises:
        BadRequest: if no such run is stored.
    """
    seconds: dict[tuple[str, str, str], dict[Size, list[float]]] = {}
    for meta in _metas(store, dataset):
        if not meta.variant and meta.train_size in sizes:
            by_size = seconds.setdefault((meta.model, meta.strategy, meta.device), {})
            by_size.setdefault(meta.train_size, []).append(meta.seconds)
    complete = {
        key: [median(by_size[size]) for size in sizes] for key, by_size in seconds.items() if len(by_size) == len(sizes)
    }
    if not complete:
        raise _missing(dataset, sizes)
    rows = []
    for (model, strategy, device), medians in sorted(complete.items()):
        hours = MANY_RUNS * medians[-1] / 3600
        cells = [f"{value:,.1f}" for value in medians] + [f"{hours / workers:,.1f}" for workers in WORKERS]
        rows.append([f"`{model}`", strategy, device, *cells])
    head = ["model", "strategy", "device of a run", *(f"seconds, {_size_text(size)}" for size in sizes)]
    head += [f"hours of {MANY_RUNS:,} runs on {workers:,} at once" for workers in WORKERS]
    note = (
        "Median seconds of the stored runs of this data set, prediction of its test images included. The last columns "
        f"are {MANY_RUNS:,} times the seconds at {_size_text(sizes[-1])}, divided by the trainings at the same time."
    )
    return _with_note(table(head, rows), of, note)


def development_table(store: Store, dataset: str, sizes: list[Size], of: str | None = None) -> str:
    """Return recipes against baselines on development images; `dataset` names the families whose logs are read.

    Raises:
        BadRequest: if a family has no log.
    """
    return baseline_table(dataset.split(","), [size for size in sizes if size])


TABLES: dict[str, Callable[[Store, str, list[Size], str | None], str]] = {
    "results": headline_table, "families": families_table, "contest": contest_table, "sizes": size_table,
    "variants": variant_table, "verdicts": verdict_table, "finding": finding_sentence, "answers": answer_sentences,
    "baselines": development_table, "shortcuts": shortcut_sentences, "external": external_table, "costs": cost_table,
}  # fmt: skip


def with_tables(text: str, store: Store, folder: Path) -> str:
    """Return a document with every table updated, and write its figures.

    Args:
        text: the document.
        store: the run store.
        folder: folder of the document.
    """

    def fill(block: re.Match[str]) -> str:
        tables = TABLES | {"curves": lambda store, dataset, sizes, of: write_curves(store, dataset, sizes, folder)}
        if block[2] not in tables:
            raise BadRequest(f"Expected a table of the kind {', '.join(tables)}, but got {block[2]!r}.")
        sizes = [None if size == "full" else int(size) for size in block[4].split(",")]
        return f"{block[1]}{tables[block[2]](store, block[3], sizes, block[5])}{block[6]}"

    return _BLOCK.sub(fill, text)


def write_tables(path: Path, store: Store) -> bool:
    """Update the tables of a document in place; return whether it changed."""
    before = path.read_text()
    after = with_tables(before, store, path.parent)
    if after != before:
        write_atomically(path, after.encode())
    return after != before


def _metas(store: Store, dataset: str) -> list[RunMeta]:
    return [meta for meta in store.metas(dataset) if not meta.leaks]


def _at(store: Store, dataset: str, size: Size) -> dict[Series, list[Run]]:
    return runs_by_series(store, [meta for meta in _metas(store, dataset) if meta.train_size == size])


def _contrasted() -> list[Series]:
    """Return the series that take part in a contrast of the protocol, family by family."""
    series = dict.fromkeys(side for first, second, _ in CONTRASTS.values() for side in (first, second))
    return sorted(series, key=lambda name: FAMILY_LETTERS[MODELS[name.model].family])


def _named(key: Series) -> list[str]:
    strategy = f"{key.strategy} ({key.variant})" if key.variant else key.strategy
    return [MODELS[key.model].family, f"`{key.model}`", strategy]


def _figures(runs: list[Run], names: tuple[str, ...], target: int | None) -> list[str]:
    return [estimate.text(separator="<br>") for estimate in summarize(runs, names, target).values()]


def _target(series: Mapping[Any, list[Run]], of: str | None) -> int | None:
    return target_named(next(iter(series.values()))[0][1], of) if of and series else None


def _whole_task(of: str | None) -> None:
    """Refuse to evaluate one class against the rest in a table of whole tasks."""
    if of:
        raise BadRequest(f"This table is of whole tasks. Remove 'of {of}'.")


def _with_note(result: str, of: str | None, note: str) -> str:
    """Append a note to a table; `of` names the class that was evaluated against the rest."""
    return f"{result}\n\n{f'{of} against the rest. ' if of else ''}{note}\n"


def _intervals(dataset: str, series: dict[Series, list[Run]], target: int | None) -> str:
    """Describe the two intervals of a cell in a sentence; images of unknown label are not counted for a finding."""
    images = estimate(next(iter(series.values())), ("auroc",), target)["auroc"].n
    unit = "group"
    with suppress(LowshotError):
        unit = find_dataset(dataset).group_key
    on_all = all(run.meta.train_size is None for runs in series.values() for run in runs)
    drawn = "folds and initial weights, on the same training images" if on_all else "training subsets"
    return (
        f"test patients (the {images} test images resampled by {unit}, copies together; these seeds) and seeds "
        f"(Student's t over {drawn}; these test images)."
    )


def _size_text(size: Size) -> str:
    return f"{size} per class" if size else "all training images"


def _missing(dataset: str, sizes: list[Size]) -> BadRequest:
    return BadRequest(
        f"No table of {dataset} can be made for {', '.join(map(_size_text, sizes))}: there are no stored runs for it. "
        "Train them first, or change the size."
    )
