"""The study of own images: its default, ways to go deeper, and the start button."""

from dataclasses import replace

import streamlit as st

from core.data.own_images import OwnSet
from core.jobs import own_study
from core.jobs.catalog import Catalog
from core.jobs.own_study import STUDY_MODELS, STUDY_SEEDS, STUDY_STRATEGIES
from core.jobs.queue import Queue
from core.jobs.request import Request
from core.metrics.comparisons import MIN_SEEDS
from core.models import MODELS
from core.runs import RunMeta
from core.ui import address, cache, text
from core.ui.train import form
from core.ui.train.own_images import Checked

DEEPER = {  # choice -> models, training strategies and seeds that it adds
    "DINOv2-S": (("generic-dinov2-vits14-imgfocus",), (), ()),
    "Five seeds": ((), (), (3, 4)),
    "Full length from scratch": ((), ("scratch",), ()),
    "Fine-tuning": ((), ("finetune",), ()),
}

_NEXT = "train_next"


def request_for(checked: Checked, deeper: list[str]) -> Request:
    """Return the request of a study.

    Args:
        checked: the images.
        deeper: keys of `DEEPER`.
    Raises:
        BadRequest: if there are too few images.
    """
    added = [DEEPER[name] for name in deeper]
    models = [*STUDY_MODELS, *(model for models, _, _ in added for model in models)]
    unseen = [model for model in models if MODELS[model].family != "medical" or checked.seen == 0]
    name = checked.dataset.spec.name
    return Request(
        title=checked.own.title,
        folder=str(checked.own.path),
        models=tuple(model for model in unseen if form.has_weights(model, name)),
        strategies=(*STUDY_STRATEGIES, *(strategy for _, strategies, _ in added for strategy in strategies)),
        sizes=own_study.study_sizes(checked.dataset),
        seeds=(*STUDY_SEEDS, *(seed for _, _, seeds in added for seed in seeds)),
    )


@text.show_errors(OSError)
def show(checked: Checked, catalog: Catalog, queue: Queue) -> None:
    """Show the study with its sizes and expected time, and start it."""
    own = checked.own
    st.subheader("Train", anchor=False)
    bound = address.choice("deeper", "train_deeper", DEEPER, [], address.slug, several=True)
    deeper = st.pills(
        "Go deeper", selection_mode="multi", help="Each choice adds training runs; the expected time follows.", **bound
    )
    request = request_for(checked, list(deeper))
    request.check()
    *smaller, largest = request.sizes
    networks = "; ".join(MODELS[model].title for model in request.models)
    st.write(
        f"**Networks:** {text.escape(networks)}. Each learns from {', '.join(map(str, smaller))} and {largest} images "
        f"per class, {len(request.seeds)} times with different images."
    )
    if all(MODELS[model].family != "medical" for model in request.models):
        st.caption(
            "Without medical transfer: press Compare above to find out whether its encoder has seen your images."
            if checked.seen is None
            else "Without medical transfer: its encoder has seen some of these images, or is not available here."
        )
    if len(request.seeds) < MIN_SEEDS:
        st.caption(
            "A quick study, meant to end within five minutes for 500 images on two processor cores. Its estimates show "
            "whether to go on. With fewer than five seeds there is no verdict on which way is better."
        )
    store, name = cache.store(), checked.dataset.spec.name
    metas = [meta for meta in store.metas() if meta.dataset != name or is_current(meta, checked)]
    pairs = catalog.pairs(request.models, request.strategies)
    seconds = form.show_cost(metas, pairs, request, name)
    if any(not job.is_over for job in own_study.jobs_on(own, queue.jobs())):
        st.caption("A job is training on these images; see above.")
        return
    is_pressed = st.button("Start", type="primary", icon=":material/play_arrow:", key="train_start")
    if is_pressed or st.session_state.pop(_NEXT, "") == own.name:
        # Delete runs on an earlier state of the images, so that none is mistaken for new.
        if own.is_uploaded and not all(is_current(meta, checked) for meta in store.metas(name)):
            own_study.delete_runs(own)
        queue.submit(replace(request, expected=seconds))
        st.rerun()


def is_current(meta: RunMeta, checked: Checked) -> bool:
    """Return whether a run learned from the images as they are now, split in the same way."""
    return meta.dataset == checked.dataset.spec.name and meta.split_hash == checked.dataset.split_hash


def start_next(own: OwnSet) -> None:
    """Rerun the page and start the study at once, on the images as they are then."""
    st.session_state[_NEXT] = own.name
    st.rerun()


def forget_next() -> None:
    """Cancel the automatic start of a study, because the images cannot be trained on as they are."""
    st.session_state.pop(_NEXT, None)
