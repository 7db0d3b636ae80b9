"""Parts of a model card that need records beside the runs: checks of heatmaps, and figures by sex and by age."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import streamlit as st

from core.analysis.saliency_sanity import check_of, depends_on_weights, in_a_sentence, on_evidence, rows_of
from core.analysis.subgroups import FILE as PEOPLE_FILE
from core.analysis.subgroups import LEAST_OF_CLASS, Subgroup, by_subgroup, title_of
from core.data.specs import find_dataset
from core.errors import CorruptRun, LowshotError
from core.metrics import Estimate
from core.runs import RunMeta
from core.runs.series import Run
from core.ui import cache, text
from core.ui.tables import table


def sanity(folder: Path, meta: RunMeta) -> None:
    """What became of the run's heatmaps when its weights were made random, or that nobody looked."""
    try:
        found = check_of(folder, meta)
    except CorruptRun as error:
        st.warning(text.escape(str(error)))
        return
    if found is None:
        st.write("No check of its heatmaps is stored with this run. Whether they depend on its weights is open.")
        if meta.has_weights:
            st.code(f"python -m trainer sanity --dataset {meta.dataset}", language=None)
        return
    say = st.warning if depends_on_weights(found) is False else st.write
    say(text.escape(in_a_sentence(found)))
    if found.planted:
        st.write(text.escape(on_evidence(found.planted)))
    table(pd.DataFrame(rows_of(found)), "Grad-CAM with weights made random from the head down", f"{meta.run}-sanity")
    st.caption(
        "Grad-CAM, weights made random from the head down (Adebayo et al. 2018, arXiv:1810.03292). Spearman's rank "
        "correlation, mean over images with its 95% interval; flat maps say nothing and do not count."
    )


def subgroups(run: Run, finding: int | None) -> list[Subgroup]:
    """Figures by sex and by age, kept between reruns; none where there are none, with the reason said.

    Raises:
        CorruptRun: if the record of ages and sexes, or the predictions, are damaged.
    """
    folder, _ = run
    path = folder.parent / PEOPLE_FILE
    changed = path.stat().st_mtime_ns if path.is_file() else 0
    return _subgroups(cache.key_of([run]), changed, run, finding) if changed else []


@st.cache_data(max_entries=64, show_spinner="Computing figures by sex and by age")
def _subgroups(key: str, changed: int, _run: Run, finding: int | None) -> list[Subgroup]:
    return by_subgroup([_run], finding)


def by_group(found: Sequence[Subgroup], meta: RunMeta) -> None:
    """Tables of the groups: how many, how good, and against the largest one."""
    if not found:
        _no_groups(meta)
        return
    figures = list(dict.fromkeys(name for one in found for name in one.figures))
    rows = [
        {
            "Group": f"{one.by}: {one.name}", "Images": one.images, "Patients or lesions": one.groups,
            **{title_of(name): _value(one, name) for name in figures},
        }
        for one in found
    ]  # fmt: skip
    table(pd.DataFrame(rows), "Figures by sex and by age", f"{meta.run}-groups")
    minus = [
        {
            "Group": f"{one.by}: {one.name}", "minus": one.against,
            **{title_of(name): _signed(one.differences.get(name)) for name in figures},
        }
        for one in found
        if one.against
    ]  # fmt: skip
    if minus:
        st.write("**Differences from the largest group**")
        table(pd.DataFrame(minus), "Differences between groups", f"{meta.run}-group-differences")
    st.caption(
        "This run on its test images, 95% intervals over test patients or lesions (resampled whole), not corrected "
        "for the number of groups. Means over classes are given only where a group has "
        f"{LEAST_OF_CLASS} images of each class. Groups differ in their classes and in much that is not recorded: a "
        "difference says nothing about its cause."
    )


def _no_groups(meta: RunMeta) -> None:
    try:
        known = find_dataset(meta.dataset).people is not None
    except LowshotError:
        known = False
    if known:
        st.write("Ages and sexes of its test images are not stored yet. With the data set here, this stores them:")
        st.code(f"python -m trainer subgroups --dataset {meta.dataset}", language=None)
    else:
        st.write("Not known: the data set gives neither age nor sex of its people.")


def _value(one: Subgroup, name: str) -> str:
    if one.too_few:
        return one.too_few
    found = one.figures.get(name)
    if found is None:
        return "too few of a class"
    return "–" if math.isnan(found.value) else f"{found.value:.3f} ({found.low:.3f} to {found.high:.3f})"


def _signed(found: Estimate | None) -> str:
    if found is None or math.isnan(found.value):
        return "–"
    return f"{found.value:+.3f} ({found.low:+.3f} to {found.high:+.3f})"
