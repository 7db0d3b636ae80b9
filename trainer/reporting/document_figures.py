"""Figures of documents: measured learning curves of the contest, one panel per encoder, as SVG next to the document.

The color of a line shows its family, and black an untuned baseline; dash and marker distinguish lines too. Bands of
families are 95% intervals over seeds (Student's t); test patients vary as well, see the tables.
"""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from xml.sax.saxutils import escape

from core.analysis.contest import ENCODERS, NAMED, PLAIN_SCRATCH, SMALL_SCRATCH, plain_loop
from core.errors import BadRequest
from core.files import write_atomically
from core.metrics import METRICS, Spread, between_seeds
from core.models import BASELINE_COLOR, FAMILY_COLORS, FAMILY_LETTERS, MODELS
from core.runs import Store
from core.runs.series import Series, by_series

FOLDER = "figures"  # next to the document
_METRIC = METRICS["auroc"]
_STYLES = {"A": ("-", "o"), "B": ("-", "s"), "C": ("--", "^")}
_SMALL_STYLE = ("--", "D")
_BASELINE_DASHES = {"A": ":", "B": "-.", "C": "--"}
Curve = Mapping[int, Spread]  # images per class -> the mean over seeds and its interval


def write_curves(store: Store, dataset: str, sizes: Sequence[int | None], folder: Path) -> str:
    """Draw the learning curves of a data set and return Markdown that shows them, with their values as its text.

    The file is written only if its values have changed, because each version of the library writes different bytes.

    Args:
        store: the run store.
        dataset: name of the data set.
        sizes: training-set sizes to show; None for all training images is left out.
        folder: folder of the document.
    Raises:
        BadRequest: if no series of the contest has runs at two of these sizes.
    """
    panels = {}
    for title, (b, c) in ENCODERS.items():
        of_encoder = b, plain_loop(b), c, plain_loop(c)
        curves = _curves(store, dataset, sizes, (NAMED["A"], SMALL_SCRATCH, PLAIN_SCRATCH, *of_encoder))
        if not curves.keys().isdisjoint(of_encoder):
            panels[title] = curves
    if not panels:
        raise BadRequest(f"No encoder of the contest has runs on {dataset} at two of these sizes. Train them first.")
    path = folder / FOLDER / f"{dataset}.svg"
    text = _in_words(panels)
    if not path.exists() or f">{escape(text)}<" not in path.read_text():
        write_atomically(path, _draw(panels, text))
    return f"![{text}]({FOLDER}/{path.name})\n"


def title_of(series: Series) -> str:
    """Return the name of a series in a figure: the letter of its family, or what it is a baseline of."""
    letter = FAMILY_LETTERS[MODELS[series.model].family]
    if series == SMALL_SCRATCH:
        return f"{letter}, 64 pixels"
    return f"plain loop of {letter}" if _is_baseline(series) else letter


def _is_baseline(series: Series) -> bool:
    return series.strategy.startswith("plain-")


def _curves(
    store: Store, dataset: str, sizes: Sequence[int | None], series: Sequence[Series]
) -> dict[Series, dict[int, Spread]]:
    """Return the curve of each series with runs at two of the sizes or more."""
    stored = by_series([meta for meta in store.metas(dataset) if not meta.leaks])
    curves = {}
    for name in series:
        values: dict[int, list[float]] = {}
        for meta in stored.get(name, []):
            if meta.train_size is not None and meta.train_size in sizes:
                values.setdefault(meta.train_size, []).append(meta.metrics[_METRIC.name])
        if len(values) > 1:
            curves[name] = {size: between_seeds(by_seed, _METRIC) for size, by_seed in sorted(values.items())}
    return curves


def _in_words(panels: Mapping[str, Mapping[Series, Curve]]) -> str:
    """Describe the figure for readers who cannot see it."""
    parts = []
    for title, curves in panels.items():
        lines = [
            f"{title_of(name)} " + ", ".join(f"{spread.mean:.3f} at {size}" for size, spread in curve.items())
            for name, curve in curves.items()
        ]
        parts.append(f"{title}: {'; '.join(lines)}")
    return f"{_METRIC.title} by labeled images per class, mean over seeds. {'. '.join(parts)}."


def _draw(panels: Mapping[str, Mapping[Series, Curve]], text: str) -> bytes:
    import matplotlib
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.6 * len(panels), 3.6), layout="constrained")
    grid = figure.subplots(1, len(panels), sharey=True, squeeze=False)
    for axes, (title, curves) in zip(grid[0], panels.items(), strict=True):
        sizes = sorted({size for curve in curves.values() for size in curve})
        for name, curve in curves.items():
            family = MODELS[name.model].family
            letter = FAMILY_LETTERS[family]
            dash, marker = _SMALL_STYLE if name == SMALL_SCRATCH else _STYLES[letter]
            color, spreads = FAMILY_COLORS[family], list(curve.values())
            if _is_baseline(name):
                color, dash, marker = BASELINE_COLOR, _BASELINE_DASHES[letter], "x"
            else:
                low, high = [spread.low for spread in spreads], [spread.high for spread in spreads]
                axes.fill_between(list(curve), low, high, color=color, alpha=0.12)
            means = [spread.mean for spread in spreads]
            axes.plot(list(curve), means, color=color, linestyle=dash, marker=marker, label=title_of(name))
        axes.set_xscale("log")
        axes.set_xticks(sizes, map(str, sizes))
        axes.minorticks_off()
        axes.set(title=title, xlabel="labeled images per class")
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
    figure.axes[0].set_ylabel(_METRIC.title)
    file = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "lowshot", "svg.fonttype": "path"}):
        figure.savefig(file, format="svg", metadata={"Date": None, "Description": text})
    return file.getvalue()
