"""Train: upload images or choose a data set, start a job as a separate process, follow it, and see its result."""

from dataclasses import replace
from pathlib import Path

import streamlit as st

from core.data.own_images import OwnSet, on_server, sets_of
from core.data.specs import DatasetSpec
from core.errors import BadRequest
from core.jobs import own_study
from core.jobs.queue import Queue
from core.jobs.request import Request, sizes_of
from core.ui import address, app_frame, cache, login, text
from core.ui.train import form, job_panel, own_images, result, study

app_frame.require(__file__)

SHOWN = 20

st.title("Train")
st.write(
    "Train networks on a few of your own images, or on a data set, and estimate the gain from more images. Jobs run in "
    "the background: closing this page or restarting the app does not stop them."
)

queue = Queue()
jobs = [job for job in queue.jobs() if not own_study.is_of_another(job, login.owner())]
if unfinished := {job.name for job in jobs if not job.is_over}:
    st.header("In progress")
    st.fragment(job_panel.show_unfinished, run_every="1s")(queue, unfinished)

st.header("New job")
first = form.PRESENT if address.is_given("set") else form.OWN  # a link may name only a data set
kind = address.segments("Images", "images", "train_kind", form.KINDS, first, form.KINDS.__getitem__)
with text.stop_on_error():
    catalog = cache.catalog()


def own_images_study(own: OwnSet | None) -> None:
    """Show a visitor's own images: result, check and study."""
    address.expect("way", "browse", "deeper")
    if own is None:
        return
    place = st.container()
    checked = own_images.check(own, study.start_next)
    if checked is None:
        study.forget_next()
        return
    with place:
        result.show(checked)
    study.show(checked, catalog, queue)


def folder_or_set() -> None:
    """Show the study of a folder on the server, or the form of a job."""
    if (data := form.pick_data(kind)) is None:
        return
    spec, folder = data
    if (
        folder
        and form.fits_study(spec)
        and not st.toggle("Choose models and settings myself", **address.switch("choose", "train_choose"))
    ):
        own_images_study(on_server(Path(folder)))
    else:
        new_job(spec, folder)


def new_job(spec: DatasetSpec, folder: str) -> None:
    """Show the form of a job, its expected cost, and the button that starts it."""
    models = form.pick_models(catalog, spec)
    strategies = form.pick_strategies(catalog, models)
    left, right = st.columns(2)
    sizes = left.multiselect(
        "Labeled images per class", accept_new_options=True,
        help="Number of images to train on. full: all training images.",
        **address.choice("size", "train_sizes", form.SIZES, ["10", "25"], several=True, more=True),
    )  # fmt: skip
    seeds = right.multiselect(
        "Seeds", **address.choice("seed", "train_seeds", form.SEEDS, ["0", "1"], several=True),
        help="Each seed draws a different training subset. Comparing families requires at least five.",
    )  # fmt: skip
    options = form.pick_settings(catalog, strategies)
    try:
        request = Request(
            title=spec.title, dataset="" if folder else spec.name, folder=folder, models=tuple(models),
            strategies=tuple(strategies), sizes=sizes_of(sizes), seeds=tuple(sorted(map(int, seeds))), options=options,
        )  # fmt: skip
        request.check()
        if not (pairs := catalog.pairs(models, strategies)):
            raise BadRequest("None of these models supports any of these training strategies. Choose another one.")
    except BadRequest as error:
        st.info(text.escape(str(error)))
        return
    seconds = form.show_cost(cache.store().metas(), pairs, request, spec.name)
    if st.button("Start", type="primary", icon=":material/play_arrow:", key="train_start"):
        text.rerun_after(queue.submit, replace(request, expected=seconds))


if kind == form.OWN:
    own_images_study(own_images.pick_set(queue))
else:
    folder_or_set()

if finished := [job for job in reversed(jobs) if job.is_over]:
    st.header("Finished")
    own_sets = sets_of(login.owner())
    for job in finished[:SHOWN]:
        job_panel.show_finished(queue, job, own_sets)
    if len(finished) > SHOWN:
        st.caption(f"{len(finished) - SHOWN} older jobs are not shown. Remove some to see them.")
