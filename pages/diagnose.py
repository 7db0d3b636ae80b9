"""Diagnose: predictions of the three model families for uploaded images, side by side with their heatmaps."""

from dataclasses import replace

import streamlit as st

from core.data.datasets.phantom import phantom_at
from core.data.images import KINDS, encode_png
from core.data.uploads import Upload
from core.errors import CorruptRun, DataUnavailable, LowshotError, WeightsUnavailable
from core.explain import EXPLAINERS
from core.inference.analyze import Network, Settings
from core.inference.examples import examples_of
from core.inference.sentences import question_of, scope_of
from core.inference.two_stage import Stages
from core.models import FAMILY_TITLES
from core.paths import LIMITS, MIB
from core.runs import RunMeta
from core.runs.selection import SERVED_FAMILIES
from core.ui import address, app_frame, cache, charts, pickers, text
from core.ui.diagnose.batch import show_batch
from core.ui.diagnose.case_view import show_cases
from core.ui.diagnose.display import PREVALENCE, PREVALENCE_KEY, Display
from core.ui.diagnose.session import drop_missing, note_change, unpacked_uploads

app_frame.require(__file__)

EXAMPLE = 2003
DEFAULT_CLASS = -1
FULLY_SHOWN = 4  # images; above this number the page shows a table and one image in full

st.title("Diagnose")
st.write("Upload images and compare the predictions of three differently trained networks.")

store, served = cache.store_and_networks()
text.show_problems(store)
questions = {
    task: question_of(next(iter(served[task].values()))[0].run.meta)
    for task in sorted(served, key=lambda task: pickers.dataset_order(task, store))
}
if not served:
    st.info("No trained network is stored yet.", icon=":material/model_training:")
    st.page_link("pages/train.py", label="Train networks", icon=":material/arrow_forward:")
    st.stop()


def run_title(meta: RunMeta) -> str:
    """Return the menu entry of a run."""
    size = meta.train_size if meta.train_size is not None else "all"
    leaks = " · LEAKS ALLOWED" if meta.leaks else ""
    series = charts.series_title(meta.model, meta.strategy, meta.series_variant)
    return f"{series} · {size} per class · seed {meta.seed}{leaks} · {meta.run[-8:]}"


def chosen_stages(networks: dict[str, Network]) -> Stages | None:
    """Show the slider for the screening sensitivity and choose both stages; None if they cannot be chosen."""
    sensitivity = st.slider(
        "Target sensitivity of the screening stage", step=0.01, format="percent",
        **address.number("sensitivity", "diagnose_sensitivity", 0.95, 0.8, 0.99),
        help="The networks of both stages are chosen from those above by their performance "
        "on images held out within their training subsets. The screening threshold is fitted on the same images.",
    )  # fmt: skip
    try:
        runs = {family: network.runs for family, network in networks.items()}
        return cache.chosen_stages(runs, sensitivity, cache.STAGE_RESAMPLES)
    except LowshotError as error:
        st.caption(f"No two-stage verdict: {text.escape(str(error))}")
        return None


def pick_examples(task: str) -> dict[Upload, str]:
    """Show the real example images of a task, if any; return those chosen, with their captions."""
    try:
        examples = examples_of(task)
    except DataUnavailable as error:
        st.caption(f"No example images: {text.escape(str(error))}")
        return {}
    if not examples:
        return {}
    chosen = {}
    with st.expander("No image at hand? Try an example", icon=":material/image_search:"):
        for number, (column, example) in enumerate(zip(st.columns(len(examples)), examples, strict=True), start=1):
            column.image(
                str(example.path), caption=text.escape(example.credit), width="stretch", alt=f"Example {number}"
            )
            bound = address.switch(f"example-{number}", f"diagnose_example_{task}_{number}")
            if column.toggle(f"Example {number}", **bound):
                chosen[example.upload(f"Example {number}")] = example.caption
    return chosen


def view_controls(meta: RunMeta, images: int) -> tuple[str, int | None, Display]:
    """Choose the heatmap, the class that it explains, and how it is drawn; the progress of slow ones appears below."""
    left, middle, right = st.columns(3)
    explainer = left.selectbox(
        "Heatmap", **address.choice("heatmap", "diagnose_explainer", EXPLAINERS),
        format_func=lambda name: EXPLAINERS[name].title + (", takes seconds" if EXPLAINERS[name].slow else ""),
    )  # fmt: skip
    bound = address.choice(
        "class", f"diagnose_{meta.dataset}_target", [DEFAULT_CLASS, *range(len(meta.titles))],
        text=lambda k: "default" if k == DEFAULT_CLASS else meta.labels[k],
    )  # fmt: skip
    target = middle.selectbox(
        "Class to explain", **bound,
        format_func=lambda k: "Default class for each network" if k == DEFAULT_CLASS else meta.titles[k],
        help="Default: the positive class, the most likely class, or the finding furthest above its threshold.",
    )  # fmt: skip
    opacity = right.slider("Heatmap opacity", step=0.05, **address.number("opacity", "diagnose_opacity", 0.6, 0.0, 1.0))
    place = st.empty()
    common = images > 1 and st.toggle(
        "One heatmap scale for all images", **address.switch("scale", "diagnose_common_scale"),
        help="For comparing images of one network. Otherwise the strongest region of every map is the brightest.",
    )  # fmt: skip
    st.slider(
        "Prevalence in your patients", step=0.01, format="percent",
        **address.number("prevalence", PREVALENCE_KEY, PREVALENCE, 0.01, 0.99),
        help="Predictive values depend on the prevalence.",
    )  # fmt: skip
    return explainer, None if target == DEFAULT_CLASS else target, Display(place, opacity, common)


task = st.selectbox("Question", format_func=questions.__getitem__, **address.choice("task", "diagnose_task", questions))
meta = next(iter(served[task].values()))[0].run.meta  # for facts about the data set, equal in all runs
st.caption(text.escape(scope_of(meta)))
if meta.synthetic:
    st.warning("This task is synthetic: its images are computer-generated.", icon=":material/science:")
caution = pickers.warn_of_shortcuts(store, task)

with st.expander("Networks", icon=":material/tune:"):
    networks = {}
    for column, (family, candidates) in zip(st.columns(len(served[task])), served[task].items(), strict=True):
        by_run = {network.run.meta.run: network for network in candidates}
        families = {network.run.meta.family for network in candidates}
        run = column.selectbox(
            " / ".join(title for name, title in FAMILY_TITLES.items() if name in families),
            format_func=lambda run, by_run=by_run: run_title(by_run[run].run.meta),
            **address.choice(family, f"diagnose_{task}_{family}", by_run),
            help="Default: of the runs of the largest size that all columns have, the one that performed best on "
            "images held out within its training subset.",
        )
        networks[by_run[run].run.meta.family] = by_run[run]
    stages = chosen_stages(networks) if meta.suspicious else None
if missing := [FAMILY_TITLES[family] for family in SERVED_FAMILIES if family not in served[task]]:
    st.caption(f"No run with weights is stored for: {', '.join(missing)}.")

folder = st.toggle("Upload a folder instead of files", **address.switch("folder", "diagnose_folder"))
uploads = st.file_uploader(
    f"{KINDS} images, several at once, or zip archives of them (at most {LIMITS.images} images)",
    accept_multiple_files="directory" if folder else True,
    key="diagnose_folder_files" if folder else "diagnose_files",
    on_change=note_change,
    help=f"Up to {LIMITS.file_bytes // MIB} MB per file. Files are held in memory only and never stored; file names "
    "are not logged.",
)
examples = pick_examples(task)
example = st.toggle(
    "Show an example (a synthetic phantom, not a patient)", **address.switch("example", "diagnose_example")
)
images, unread = unpacked_uploads(uploads)
if unread:
    st.warning(f"{unread} files exceed the limit and were not read. Predictions cover the first {len(images)} images.")
images += examples
if example:
    images.append(Upload("Synthetic phantom", encode_png(phantom_at(EXAMPLE).pixels)))
    if not meta.synthetic:
        st.info(
            "The example is a synthetic phantom. The networks of this task were not trained on phantoms: their "
            "predictions only show how the page works.",
            icon=":material/science:",
        )
credits = {upload.digest: caption for upload, caption in examples.items()}
drop_missing(images)
address.expect("heatmap", "class", "opacity", "scale", "prevalence")
if not images:
    st.caption("Images are held in memory only and never stored.")
    st.stop()

try:
    image_checker = cache.image_checker(task, [network.run.meta for network in networks.values()])
except (CorruptRun, WeightsUnavailable) as error:
    image_checker = None
    st.error(f"Image check unavailable: images are not checked. {text.escape(str(error))}")
if image_checker is None:
    st.caption("This task has no image check: every image receives a prediction, even an unsuitable one.")
settings = Settings(networks, image_checker, stages=stages, uncertainty=True)
shown = show_batch(settings, images) if len(images) > FULLY_SHOWN else images
if shown:
    explainer, target, display = view_controls(meta, len(shown))
    show_cases(
        replace(settings, explainer=explainer, target=target), shown, replace(display, caution=caution, credits=credits)
    )
