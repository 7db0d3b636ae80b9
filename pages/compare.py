"""Compare: the model families at one training-set size. Only the section on display is computed."""

import streamlit as st

from core.runs.series import runs_by_series
from core.ui import address, app_frame, cache, pickers, text
from core.ui.compare import (
    conformal,
    confusion,
    differences,
    external,
    metrics,
    operating_point_section,
    training,
    two_stage,
)
from core.ui.compare.view import View

app_frame.require(__file__)

SECTIONS = {
    "Metrics": metrics.show,
    "Differences": differences.show,
    "External test": external.show,
    "Operating point": operating_point_section.show,
    "Confusion": confusion.show,
    "Prediction sets": conformal.show,
    "Two stages": two_stage.show,
    "Training": training.show,
}

st.title("Compare")
st.write("Compare the model families at one training-set size, on the same test images.")

store = cache.store()
text.show_problems(store)
left, right = st.columns(2)
with left:
    metas = pickers.comparable_runs(store, "compare")
with right:
    size = pickers.pick_size(metas, "compare")
series = runs_by_series(store, [meta for meta in metas if meta.train_size == size])
chosen = {name: series[name] for name in pickers.pick_series(series, "compare")}
finding = pickers.pick_finding(metas[0], "compare")
section = address.segments("Show", "section", "compare_section", SECTIONS, text=address.slug)
with text.stop_on_error():
    SECTIONS[section](View(store, chosen, size, finding))
