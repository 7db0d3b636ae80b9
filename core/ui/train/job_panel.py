"""Jobs on the Train page: the running job with its training curve, queued jobs, and finished jobs."""

import time
from collections.abc import Sequence
from datetime import datetime

import streamlit as st

from core.data.own_images import OwnSet
from core.jobs import own_study
from core.jobs.costs import time_left
from core.jobs.events import STEPS, Progress
from core.jobs.queue import Queue
from core.jobs.records import LOG, Job
from core.jobs.remedies import remedy_of, without_weights
from core.jobs.request import CURVE, size_text
from core.models import MODELS
from core.ui import charts, text
from core.ui.charts import COLORS, Style
from core.ui.progress import duration_text
from core.ui.tables import table

STATES = {
    "queued": (":material/schedule:", "queued"),
    "running": (":material/play_circle:", "is training"),
    "done": (":material/check_circle:", "done"),
    "failed": (":material/error:", "failed"),
    "cancelled": (":material/cancel:", "cancelled"),
}
_LINES = 14
_MOST = 400
_CURVES = {
    "train_loss": ("Loss on training images", Style(COLORS[0], "solid", "circle")),
    "validation_loss": ("Loss on held-out images", Style(COLORS[1], "dash", "square")),
}


def heading(job: Job) -> None:
    """Show the request of a job and its state."""
    icon, status = STATES[job.state.status]
    request = job.request
    status = "is being cancelled" if job.stopping and not job.is_over else status
    st.markdown(f"{icon} **{text.escape(request.title)}** · {status}")
    if request.command != CURVE:
        return
    parts = [
        ", ".join(request.models), ", ".join(request.strategies),
        f"{', '.join(map(size_text, request.sizes))} per class", f"seeds {', '.join(map(str, request.seeds))}",
        *(f"{name} {value}" for name, value in request.options.items()),
    ]  # fmt: skip
    st.caption(text.escape(" · ".join(parts)))


def show_unfinished(queue: Queue, names: set[str]) -> None:
    """Show the unfinished jobs; when one of them finishes, rerun the whole page."""
    if problem := queue.wake():
        st.error(text.escape(problem), icon=":material/error:")
    waiting = [job for job in queue.jobs() if not job.is_over]
    jobs = [(position, job) for position, job in enumerate(waiting) if job.name in names]
    if len(jobs) != len(names):
        st.rerun(scope="app")
    for position, job in jobs:
        with st.container(border=True):
            heading(job)
            if job.state.status == "running":
                _running(job)
            elif position:
                st.caption(f"Jobs ahead in the queue: {position}. One job runs at a time.")
            elif not problem:
                st.caption("This job starts in a moment.")
            if st.button(
                "Cancel", key=f"train_cancel_{job.name}", icon=":material/stop_circle:", disabled=job.stopping
            ):
                text.rerun_after(queue.cancel, job)


def _running(job: Job) -> None:
    followed = job.followed()
    elapsed = max(0.0, time.time() - job.state.began)  # the clock may have been set back
    left = time_left(followed, job.request.expected, elapsed)
    if followed.runs_total:
        st.progress(
            min(1.0, followed.runs_done / followed.runs_total),
            f"Run {min(followed.runs_done + 1, followed.runs_total)} of {followed.runs_total}",
        )
    if followed.total:
        unit = {STEPS: "steps"}.get(followed.unit, f"{followed.unit}s")
        st.progress(
            min(1.0, followed.done / followed.total),
            f"{text.escape(followed.doing)}: {followed.done:,} of {followed.total:,} {unit}",
        )
    elif not followed.runs_total:
        st.caption("The trainer is starting; this takes a few seconds.")
    if job.request.command == CURVE:
        _figures(followed, elapsed, left)
    if followed.epochs:
        _curve(job, followed)
    elif followed.title:
        st.caption("No training curve: training a head on stored embeddings takes seconds and has no epochs.")
    log(followed)


def _curve(job: Job, followed: Progress) -> None:
    epochs = followed.epochs
    figure = charts.loss_curves(epochs[:: 1 + len(epochs) // _MOST], _CURVES, "epoch")  # long curves are thinned
    last = epochs[-1]
    losses = [f"{title.lower()} {last[loss]:.3f}" for loss, (title, _) in _CURVES.items() if last.get(loss) is not None]
    alt = f"Training curve up to epoch {last['epoch']}: {', '.join(losses) or 'no loss yet'}"
    charts.show_figure(figure, key=f"train_curve_{job.name}", alt=alt)


def _figures(followed: Progress, elapsed: float, left: float | None) -> None:
    last = followed.epochs[-1] if followed.epochs else {}
    shown = {
        "Epoch": str(last["epoch"]) if last else "–",
        "Loss, training": _number(last.get("train_loss")),
        "Loss, held out": _number(last.get("validation_loss")),
        "Accuracy, held out": _number(last.get("validation_accuracy")),
        "Time so far": duration_text(elapsed).removeprefix("about "),
        "Time left": duration_text(left) if left is not None else "unknown",
    }
    with st.container(horizontal=True):
        for title, value in shown.items():
            st.metric(title, value, width="content")


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def log(followed: Progress) -> None:
    """Show the last lines of the trainer's output."""
    if followed.texts:
        lines = [f"{datetime.fromtimestamp(when):%H:%M:%S}  {line}" for when, line in followed.texts[-_LINES:]]
        st.code("\n".join(lines), language=None, wrap_lines=True)


def show_finished(queue: Queue, job: Job, own_sets: Sequence[OwnSet]) -> None:
    """Show a finished job: how it ended, the runs it stored, and the actions on it.

    Args:
        queue: the job's queue.
        job: the job.
        own_sets: the visitor's own images, which can be deleted if the disk is full.
    """
    state = job.state
    with st.container(border=True):
        heading(job)
        if state.status == "failed":
            st.error(text.escape(state.why), icon=":material/error:")
        kept = f"{state.kept} of {state.total} runs are in the store." if state.total else "No run was finished."
        if job.request.command != CURVE:
            kept = "The model cards show the result." if state.status == "done" else ""
        duration = (
            f" It took {duration_text(state.ended - state.began)}." if state.began and state.ended > state.began else ""
        )
        st.write(kept + duration)
        with st.container(horizontal=True, vertical_alignment="center"):
            if state.status == "failed":
                _remedy(queue, job, own_sets)
            if state.status != "done" and st.button(
                "Continue", key=f"train_again_{job.name}", icon=":material/resume:"
            ):
                text.rerun_after(queue.resubmit, job)
            if state.kept:
                st.page_link(
                    "pages/learning_curves.py", label="Learning curves", icon=":material/show_chart:",
                    query_params={"set": job.request.dataset_name},
                )  # fmt: skip
            if st.button("Remove", key=f"train_forget_{job.name}", icon=":material/delete:"):
                text.rerun_after(queue.remove, job)
        if st.toggle("Runs and log", key=f"train_log_{job.name}"):
            _details(job)


def _remedy(queue: Queue, job: Job, own_sets: Sequence[OwnSet]) -> None:
    """Offer the action that fits the reason why a job failed, if there is one besides `Continue`."""
    remedy = remedy_of(job)
    if remedy == "weights":
        for model in without_weights(job.request):
            st.page_link(
                "pages/models.py", label=f"What to install for {text.escape(MODELS[model].title)}",
                icon=":material/download:", query_params={"section": "networks", "network": model},
            )  # fmt: skip
    elif remedy == "space" and own_sets:
        with st.popover("Free space: delete own images", icon=":material/delete:"):
            st.write("This deletes images and all networks and results made from them. Then continue this job.")
            for own in own_sets:
                if st.button(f"Delete {text.escape(own.title)}", key=f"train_free_{job.name}_{own.path.name}"):
                    text.rerun_after(own_study.delete, own, queue)
    elif remedy in ("fewer", "more"):
        request = job.request.with_images(remedy)
        if request and st.button(
            f"Train with {remedy} images: {', '.join(map(size_text, request.sizes))} per class",
            key=f"train_{remedy}_{job.name}", icon=":material/model_training:",
        ):  # fmt: skip
            text.rerun_after(queue.submit, request)


def _details(job: Job) -> None:
    followed = job.followed()
    if followed.runs:
        rows = [
            {
                "Run": run.get("title"), "Trained now": "yes" if run.get("trained") else "was in the store",
                "Seconds": run.get("seconds"), **run.get("metrics", {}),
            }
            for run in followed.runs
        ]  # fmt: skip
        table(rows, "Finished runs of this job")
    if followed.epochs:
        _curve(job, followed)
    log(followed)
    st.caption(f"The full output of the trainer is in {text.escape(f'{job.name}/{LOG}')}, in the folder of jobs.")
