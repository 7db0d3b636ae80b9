"""The start page: the question, the finding on one data set, and links to the next steps."""

import streamlit as st

from core.analysis.contest import FINDING_NOTE, LOOP, contestants, finding_text, headline, listed, way_of
from core.metrics import METRICS
from core.runs.series import runs_by_series
from core.ui import app_frame, cache, charts, pickers, text
from core.ui.compare import metric_charts
from core.ui.start.story import (
    INTRODUCTIONS,
    LOOP_MEANING,
    best_family,
    family_title,
    labels_text,
    meaning_text,
    rates_text,
    size_table,
)
from core.ui.tables import table

app_frame.require(__file__)

FOR_WHOM = 50  # labeled images per class that the page assumes its reader to have
METRIC = METRICS["auroc"]

st.title("What can a few labeled images buy?")
st.write(
    "Lowshot trains three families of networks on the same few labeled medical images, and evaluates "
    "them on the same large test set that none of them has seen."
)
for family, column in zip(INTRODUCTIONS, st.columns(len(INTRODUCTIONS)), strict=True):
    column.markdown(f"**{family} ·** {INTRODUCTIONS[family]}")
links = st.container()


def show_links(task: dict[str, str], dataset: dict[str, str]) -> None:
    """Show links to the next steps, with the chosen data set in their addresses."""
    ways = (
        ("pages/diagnose.py", "Try an image", ":material/radiology:", task),
        ("pages/compare.py", "See the evidence", ":material/balance:", dataset),
        ("pages/train.py", "Use your own images", ":material/upload:", {"images": "own"}),
    )
    for column, (page, label, icon, query) in zip(links.columns(3), ways, strict=True):
        with column.container(border=True):
            st.page_link(page, label=f"**{label}**", icon=icon, width="stretch", query_params=query)


store, served = cache.store_and_networks()
text.show_problems(store)
if not store.metas():
    show_links({}, {})
    st.info("No results are stored yet. Train networks on the Train page; the finding then appears here.")
    st.stop()
metas = pickers.comparable_runs(store, "start", notes=False)
chosen = metas[0].dataset
show_links({"task": chosen} if chosen in served else {}, {"set": chosen})
sized = runs_by_series(store, [meta for meta in metas if meta.train_size is not None])
names = contestants(sized)
if not names.keys() - {LOOP}:
    st.info("No stored run of this data set takes part in the comparison. Choose another data set.")
    st.stop()
networks = {family: charts.series_title(*name).partition(" · ")[2] for family, name in names.items()}
titles = {family: pickers.mark_leaks(family_title(family, name), sized[name]) for family, name in names.items()}
with text.stop_on_error():
    fits = cache.fitted_curves({name: sized[name] for name in names.values()}, METRIC.name, None)
    sizes = {run.meta.per_class for family, name in names.items() if family != LOOP for run in sized[name]}
    size = min(sizes, key=lambda n: abs(n - FOR_WHOM))
    estimates = {
        family: cache.summaries(at_size)
        for family, name in names.items()
        if (at_size := [run for run in sized[name] if run.meta.per_class == size])
    }
    summaries = {family: rows[METRIC.name] for family, rows in estimates.items()}
    best = best_family(summaries, METRIC)
    meaning = [
        meaning_text(size, METRIC, summaries, names),
        rates_text(metas[0], names[best], estimates[best]),
        labels_text(fits, names.get("A"), names[best], size),
    ]

finding = headline({family: fits[name] for family, name in names.items() if name in fits})
if finding:
    st.header(text.escape(finding_text(metas[0].dataset_title, METRIC, finding, names)), anchor=False)
    st.caption(FINDING_NOTE)
    if short := [way_of(name) for family, name in names.items() if family != LOOP and family not in finding.needed]:
        st.caption(f"Not counted, because a curve needs three sizes: networks {listed(short)}.")
st.write(text.escape(" ".join(filter(None, meaning))))
measured = {
    titles[family]: metric_charts.Measured.of(name, sized[name], cache.values(sized[name], METRIC.name, None))
    for family, name in names.items()
}
alt = f"{METRIC.title} against labeled images per class; the table below has the values at {size:g}."
charts.show_figure(metric_charts.learning_curves(measured, METRIC.name), key="start_curves", alt=alt)
st.caption(
    "Mean over seeds. Band: 95% interval over other training images, for the same test patients."
    + (f" {LOOP_MEANING}" if LOOP in names else "")
)
rows = size_table(summaries, titles, networks, METRIC)
table(rows, f"{METRIC.title} with {size:g} images per class", f"{metas[0].dataset}-start")
st.caption(
    f"{size:g} labeled images per class. 95% intervals: over other test patients for the same networks, and over "
    "other training images for the same test patients. Compare tests which differences are real."
)
