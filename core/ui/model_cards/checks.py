"""Parts of a model card that need extra records: sanity checks of heatmaps, and results by sex and age."""

from collections.abc import Sequence

import streamlit as st

from core.analysis.saliency_sanity import depends_on_weights, evidence_sentence, read_check, rows_of, sentence
from core.analysis.subgroups import FILE as PEOPLE_FILE
from core.analysis.subgroups import LEAST_OF_CLASS, Subgroup, by_subgroup, title_of
from core.cards.subject import row_of
from core.data.specs import is_present
from core.errors import CorruptRun
from core.jobs.queue import Queue
from core.jobs.request import Request
from core.runs import Run, RunMeta
from core.ui import text
from core.ui.cache import BY_RECORD
from core.ui.tables import table


def sanity(run: Run) -> None:
    """Show how the run's heatmaps change when its weights are randomized, or that no check is stored."""
    try:
        check = read_check(*run)
    except CorruptRun as error:
        st.warning(text.escape(str(error)))
        return
    if check is None:
        st.write("No check of its heatmaps is stored with this run. It is unknown whether they depend on its weights.")
        if run.meta.has_weights:
            _offer_job("sanity", "Check of heatmaps", "Check the heatmaps of this data set's runs", run.meta)
        return
    show = st.warning if depends_on_weights(check) is False else st.write
    show(text.escape(sentence(check)))
    if check.planted:
        st.write(text.escape(evidence_sentence(check.planted)))
    table(rows_of(check), "Grad-CAM with weights randomized from the head down", f"{run.meta.run}-sanity")
    st.caption(
        "Grad-CAM with weights randomized from the head down (Adebayo et al. 2018, arXiv:1810.03292). Spearman's rank "
        "correlation, mean over images with its 95% interval; flat maps carry no information and are excluded."
    )


def subgroups(run: Run, finding: int | None) -> list[Subgroup]:
    """Return the results of a run by sex and by age, cached between reruns; none if ages and sexes are not stored.

    Args:
        run: the run.
        finding: the finding to evaluate; None for all.

    Raises:
        CorruptRun: if the record of ages and sexes, or the predictions, are damaged.
    """
    path = run.folder.parent / PEOPLE_FILE
    changed = path.stat().st_mtime_ns if path.is_file() else 0
    return _subgroups(run, finding, changed) if changed else []


@st.cache_data(max_entries=64, show_spinner="Computing results by sex and age", hash_funcs=BY_RECORD)
def _subgroups(run: Run, finding: int | None, changed: int) -> list[Subgroup]:
    return by_subgroup([run], finding)


def show_subgroups(groups: Sequence[Subgroup], meta: RunMeta) -> None:
    """Show the size and results of each group, and its differences from the largest group."""
    if not groups:
        _no_groups(meta)
        return
    metrics = list(dict.fromkeys(name for group in groups for name in group.figures))
    rows = [
        {
            "Group": f"{group.by}: {group.name}", "Images": group.images, "Patients or lesions": group.groups,
            **{title_of(name): _value(group, name) for name in metrics},
        }
        for group in groups
    ]  # fmt: skip
    table(rows, "Results by sex and age", f"{meta.run}-groups")
    differences = [
        {
            "Group": f"{group.by}: {group.name}", "minus": group.against,
            **{title_of(name): f"{shown:+.3f}" if (shown := group.differences.get(name)) else "–" for name in metrics},
        }
        for group in groups
        if group.against
    ]  # fmt: skip
    if differences:
        st.write("**Differences from the largest group**")
        table(differences, "Differences between groups", f"{meta.run}-group-differences")
    st.caption(
        "This run on its test images, with 95% intervals (resampled by patient, lesion or image), not corrected "
        "for the number of groups. Means over classes are given only if a group has "
        f"{LEAST_OF_CLASS} images of each class. Groups differ in their classes and in factors that are not recorded: "
        "a difference says nothing about its cause."
    )


def _no_groups(meta: RunMeta) -> None:
    row = row_of(meta)
    if row and row.demographics is not None:
        st.write("Ages and sexes of the test images are not stored with the runs yet.")
        _offer_job("subgroups", "Ages and sexes", "Store ages and sexes", meta)
    else:
        st.write("Unknown: the data set provides neither age nor sex.")


def _offer_job(command: str, title: str, label: str, meta: RunMeta) -> None:
    """Offer a job that computes what a card lacks for all runs of a data set.

    Args:
        command: one of `ON_STORED_RUNS`.
        title: title of the job.
        label: label of the button.
        meta: the run of the card.
    """
    row, queue = row_of(meta), Queue()
    if row is None or not is_present(row):
        st.caption("The images of this data set are not on this server, so this cannot be computed here.")
    elif any(
        not job.is_over and (job.request.command, job.request.dataset) == (command, meta.dataset)
        for job in queue.jobs()
    ):
        st.page_link("pages/train.py", label="A job computes this: see Train", icon=":material/hourglass_top:")
    elif st.button(label, key=f"models_{command}", icon=":material/play_arrow:"):
        request = Request(f"{title}: {meta.dataset_title}", (), (), (), (), dataset=meta.dataset, command=command)
        text.rerun_after(queue.submit, request)


def _value(group: Subgroup, name: str) -> str:
    estimate = group.figures.get(name)
    return group.too_few or ("too few of a class" if estimate is None else f"{estimate:.3f}")
