"""The result of a study of own images: findings, one figure, the trained network, and labels to check."""

import math
from collections.abc import Mapping, Sequence

import streamlit as st

from core.analysis.contest import LOOP, WAYS, contestants, default_networks
from core.analysis.label_errors import disputed_images
from core.inference.image_check import FILE as IMAGE_CHECK_FILE
from core.metrics import METRICS
from core.metrics.bootstrap import interval_text
from core.metrics.comparisons import MIN_SEEDS
from core.metrics.learning_curves import Fit
from core.paths import runs_folder
from core.runs import Run
from core.runs.selection import held_out_loss
from core.runs.series import Series, runs_by_series
from core.ui import cache, charts, text
from core.ui.compare import metric_charts
from core.ui.network_download import offer_download
from core.ui.start.story import meaning_text
from core.ui.train import own_images, study
from core.ui.train.own_images import Checked

METRIC = METRICS["auroc"]
_DISPUTED = 5


@text.show_errors()
def show(checked: Checked) -> None:
    """Show the result of the runs on the images as they are now; nothing if there are none."""
    store = cache.store()
    stored = store.metas(checked.dataset.spec.name)
    if not (metas := [meta for meta in stored if study.is_current(meta, checked)]):
        if stored:
            st.info("The images have changed since networks were trained on them. Start again to see the result.")
        return
    st.subheader("Result", anchor=False)
    sized = runs_by_series(store, [meta for meta in metas if meta.train_size is not None])
    names = {family: name for family, name in contestants(sized).items() if family != LOOP}
    if not names:
        st.info("Compare shows these networks; none of them takes part in the comparison of the families.")
        return
    runs = {family: sized[name] for family, name in names.items()}
    size = max(run.meta.per_class for rows in runs.values() for run in rows)
    at_size = {
        family: largest
        for family, rows in runs.items()
        if (largest := [run for run in rows if run.meta.per_class == size])
    }
    _findings(runs, names, at_size, size)
    _networks(checked)
    if checked.own.is_uploaded:
        _labels(checked, [run for runs in at_size.values() for run in runs])


def _findings(
    runs: Mapping[str, Sequence[Run]], names: Mapping[str, Series], at_size: Mapping[str, Sequence[Run]], size: float
) -> None:
    """Show the performance reached, in words and in a figure, and the gain expected from more images."""
    summaries = {family: cache.summaries(rows)[METRIC.name] for family, rows in at_size.items()}
    best = max(summaries, key=lambda family: summaries[family].value)
    fits = cache.fitted_curves({names[family]: rows for family, rows in runs.items()}, METRIC.name, None)
    st.markdown(f"**{text.escape(meaning_text(size, METRIC, summaries, names))}**")
    both = summaries[best].both
    way = WAYS[at_size[best][0].meta.family]
    interval = "" if math.isnan(both.low) else f" (95% interval {interval_text(both.low, both.high)})"
    st.write(
        text.escape(
            f"Best here: {way}, {METRIC.title} {both.value:.3f}{interval}. {gain_text(fits.get(names[best]), size)}"
        )
    )
    seeds = min(len(rows) for rows in at_size.values())
    if seeds < MIN_SEEDS:
        st.caption(f"Estimates from {seeds} seeds. Choose Five seeds below before you claim that one is better.")
    titles = {family: charts.series_title(*name) for family, name in names.items()}
    measured = {
        titles[family]: metric_charts.Measured.of(names[family], rows, cache.values(rows, METRIC.name, None))
        for family, rows in runs.items()
    }
    fitted = {titles[family]: (measured[titles[family]], fits[name]) for family, name in names.items() if name in fits}
    if len(fitted) == len(measured):
        figure = metric_charts.fitted_curves(fitted, METRIC.name)
        lines = "Lines: fitted curves with 95% bands; dotted beyond the measured sizes."
    else:
        figure = metric_charts.learning_curves(measured, METRIC.name)
        lines = "No curves are fitted: at least three sizes are needed."
    alt = f"{METRIC.title} against images per class; the sentences above have the values at {size:g}"
    charts.show_figure(figure, key="train_result", alt=alt)
    st.caption(f"Points: means over seeds. {lines}")


def gain_text(fit: Fit | None, size: float) -> str:
    """Return the gain that twice as many images would bring by a fitted curve, or why it is unknown.

    Args:
        fit: the curve; None if there are too few sizes.
        size: images per class so far.
    """
    if fit is None:
        return "The gain from more images is unknown: networks were trained at fewer than three sizes."
    more, larger = size, 2 * size
    if fit.extrapolable and larger <= fit.limit:
        gain, low, high = fit.gain_between(size, larger)
        return (
            f"The fitted curve predicts a gain of about {gain:+.3f} (95% interval {interval_text(low, high, '+.3f')}) "
            f"from {more:g} more images per class."
        )
    gain, low, high = fit.gain_between(fit.sizes[-2], fit.sizes[-1])
    return (
        f"The gain from more images cannot be predicted: {' '.join(fit.doubts)} From {fit.sizes[-2]:g} to "
        f"{fit.sizes[-1]:g} images per class the gain was {gain:+.3f} "
        f"(95% interval {interval_text(low, high, '+.3f')})."
    )


def _networks(checked: Checked) -> None:
    """Link to the Diagnose task, and offer a trained network for download."""
    networks = default_networks(cache.store(), checked.dataset.spec.name)
    if not networks:
        st.info("No network was kept. Start again to train those that are missing.")
        return
    has_image_check = (runs_folder() / checked.dataset.spec.name / IMAGE_CHECK_FILE).exists()
    with st.container(horizontal=True, vertical_alignment="bottom"):
        st.page_link(
            "pages/diagnose.py", label="Try an image", icon=":material/radiology:",
            query_params={"task": checked.dataset.spec.name},
        )  # fmt: skip
        st.page_link(
            "pages/compare.py", label="Compare the networks", icon=":material/balance:",
            query_params={"set": checked.dataset.spec.name},
        )  # fmt: skip
    st.caption(
        "Diagnose has an image check for these images: it refuses images of another kind."
        if has_image_check
        else "Diagnose has no image check for these images: there are too few to fit one."
    )
    order = sorted(networks, key=lambda family: held_out_loss(networks[family]))
    titles = {name: charts.series_title(run.meta.model, run.meta.strategy) for name, run in networks.items()}
    family: str = st.selectbox(
        "Network to download", order, format_func=titles.__getitem__,
        key="train_network", help="First: the one that performs best on images held out within its training subset.",
    )  # fmt: skip
    offer_download(networks[family].meta, "train")


def _labels(checked: Checked, runs: Sequence[Run]) -> None:
    """Show the images whose label the networks dispute; correcting some trains again."""
    names = disputed_images(runs)
    with st.expander(f"Labels to check ({len(names)})"):
        if not names:
            st.write("On average the networks agree with the label of every held-out image.")
            return
        st.write(
            "Held-out images that the networks assign to another class, the most certain first. Decide from the "
            "image alone. Correcting only the labels that the networks dispute inflates their performance."
        )
        data, disputed = checked.dataset, names[:_DISPUTED]
        if own_images.correct(checked.own, data.spec, data.listing, disputed, "and train again", "train"):
            study.start_next(checked.own)
