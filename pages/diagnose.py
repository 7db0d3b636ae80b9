"""Diagnose: predictions of the three model families for uploaded images, side by side with their heatmaps."""

import streamlit as st

from core.data.datasets.phantom import phantom_at
from core.data.images import KINDS, encode_png
from core.data.uploads import Upload
from core.errors import CorruptRun, LowshotError, WeightsUnavailable
from core.explain import EXPLAINERS
from core.inference.seed_interval import siblings
from core.inference.two_stage import Stages, suspicious_of
from core.models import FAMILY_TITLES
from core.paths import LIMITS, MIB
from core.runs import RunMeta, Store
from core.runs.selection import SERVED_FAMILIES, candidates
from core.runs.series import Run
from core.ui import app_frame, cache, charts, pickers, text
from core.ui.diagnose.answers import PageSettings, Picture, case_of, drop_missing, item_of, unpacked_uploads
from core.ui.diagnose.batch import predict_all, show_table
from core.ui.diagnose.case_view import legend, override, override_key, scales_of, show_case

app_frame.require(__file__)

EXAMPLE = 2003
FULLY_SHOWN = 4  # images; above this number the page shows a table and one image in full

st.title("Diagnose")
st.write("Upload images and compare the predictions of three differently trained networks.")

store, default_runs = cache.store_and_served()
text.show_problems(store)
titles = {meta.dataset: meta.dataset_title for meta in store.metas()}
tasks = list(default_runs)
if not tasks:
    st.info(
        "No trained run with weights is stored yet. Train one: `.venv/bin/python -m trainer curve --dataset phantom "
        "--models scratch-cnn,imagenet-efficientnet-lite0 --sizes 25 --seeds 0`",
        icon=":material/model_training:",
    )
    st.stop()


def run_title(meta: RunMeta) -> str:
    """Return the menu entry of a run."""
    size = meta.train_size if meta.train_size is not None else "all"
    leaks = " · LEAKS ALLOWED" if meta.leaks else ""
    series = charts.series_title(meta.model, meta.strategy, meta.series_variant)
    return f"{series} · {size} per class · seed {meta.seed}{leaks} · {meta.run[-8:]}"


def chosen_stages(store: Store, chosen: dict[str, Run]) -> Stages | None:
    """Show the slider for the screening sensitivity and choose both stages; None if the task has no stages."""
    if not suspicious_of(next(iter(chosen.values()))[1]):
        return None
    sensitivity = st.slider(
        "Target sensitivity of the screening stage", 0.8, 0.99, 0.95, 0.01, format="percent",
        key="diagnose_sensitivity", help="The networks of both stages are chosen from those above by their performance "
        "on images held out within their training subsets. The screening threshold is fitted on the same images.",
    )  # fmt: skip
    try:
        runs_by_family = {family: [run, *siblings(store, run[1])] for family, run in chosen.items()}
        return cache.chosen_stages(runs_by_family, sensitivity)
    except LowshotError as error:
        st.caption(f"No two-stage verdict: {text.escape(str(error))}")
        return None


linked = st.query_params.get("task", "")
task = st.selectbox(
    "Task",
    tasks,
    index=tasks.index(linked) if linked in tasks else 0,
    format_func=titles.__getitem__,
    key="diagnose_task",
)
synthetic = any(meta.synthetic for meta in store.metas(task))
if synthetic:
    st.warning("This task is synthetic: its images are computer-generated.", icon=":material/science:")
pickers.warn_of_shortcuts(store, task)

with st.expander("Networks and heatmap settings", icon=":material/tune:"):
    defaults = default_runs[task]
    chosen = {}
    for family, column in zip(defaults, st.columns(len(defaults)), strict=True):
        runs = {run.meta.run: run for run in candidates(store, task, family)}
        families = dict.fromkeys(meta.family for _, meta in runs.values())
        run = column.selectbox(
            " / ".join(FAMILY_TITLES[one] for one in FAMILY_TITLES if one in families),
            list(runs),
            index=list(runs).index(defaults[family][1].run),
            format_func=lambda name, runs=runs: run_title(runs[name][1]),
            key=f"diagnose_{task}_{family}",
            help="Default: of the runs with the most labels, the one that performed best on images held out within "
            "its training subset.",
        )
        chosen[runs[run][1].family] = runs[run]
    left, right = st.columns(2)
    explainer = left.selectbox(
        "Heatmap", list(EXPLAINERS), format_func=lambda name: EXPLAINERS[name].title, key="diagnose_explainer",
        help="Occlusion and integrated gradients take several seconds per image and network.",
    )  # fmt: skip
    opacity = right.slider("Heatmap opacity", 0.0, 1.0, 0.6, 0.05, key="diagnose_opacity")
    classes = next(iter(chosen.values()))[1].titles
    target = st.selectbox(
        "Class to explain",
        [None, *range(len(classes))],
        format_func=lambda k: "Default class of each prediction" if k is None else classes[k],
        key=f"diagnose_{task}_target",
        help="Default: the positive class, the most likely class, or the finding furthest above its threshold.",
    )
    stages = chosen_stages(store, chosen)
if missing := [FAMILY_TITLES[family] for family in SERVED_FAMILIES if family not in defaults]:
    st.caption(f"No run with weights is stored for: {', '.join(missing)}.")

folder = st.toggle("Upload a folder instead of files", key="diagnose_folder")
uploads = st.file_uploader(
    f"{KINDS} images, several at once, or zip archives of them (at most {LIMITS.images} images)",
    accept_multiple_files="directory" if folder else True,
    key="diagnose_folder_files" if folder else "diagnose_files",
    help=f"Up to {LIMITS.file_bytes // MIB} MB per file. Files are held in memory only and never stored; file names "
    "are not logged.",
)
example = st.toggle("Show an example (a synthetic phantom, not a patient)", key="diagnose_example")
images, more = unpacked_uploads(uploads)
if more:
    st.warning(f"{more} files exceed the limit and were not read. Predictions cover the first {len(images)} images.")
if example:
    images.append(Upload("Synthetic phantom", encode_png(phantom_at(EXAMPLE).pixels)))
    if not synthetic:
        st.info(
            "The example is a synthetic phantom. The networks of this task were not trained on phantoms: their "
            "predictions only show how the page works.",
            icon=":material/science:",
        )
drop_missing({upload.digest for upload in images})
if not images:
    st.caption("Images are held in memory only and never stored.")
    st.stop()

try:
    gatekeeper = cache.gatekeeper(task, (meta for _, meta in chosen.values()))
except (CorruptRun, WeightsUnavailable) as error:
    gatekeeper = None
    st.error(f"Image check unavailable: images are not checked. {text.escape(str(error))}")
if gatekeeper is None:
    st.caption(
        "No image check runs for this task: every image gets a prediction, whatever it shows. Create one: "
        f"`.venv/bin/python -m trainer gate --dataset {task}`"
    )
request = PageSettings(store, task, titles[task], synthetic, chosen, explainer, target, gatekeeper, stages)
pictures = [Picture(upload) for upload in images]
items = [(item_of(picture), picture) for picture in pictures]
readable = [(item, picture) for item, picture in items if not item.problem]
shown = items
if len(items) > FULLY_SHOWN:
    override_all = (
        st.toggle("Also predict images that fail the image check", key="diagnose_override_all") if gatekeeper else False
    )
    cases = predict_all(request, readable, "-".join(item.digest[:8] for item, _ in items), override_all)
    show_table(cases, [(item.name, item.problem) for item, _ in items if item.problem])
    names = [f"{number}: {item.name}" for number, (item, _) in enumerate(readable, start=1)]
    position = st.selectbox(
        "Image to show in full", range(len(readable)), format_func=names.__getitem__, key="diagnose_pick"
    )
    shown = [readable[position]] if position is not None else []

cases_shown = [
    (item, picture, case_of(request, item, picture, st.session_state.get(override_key(item), False), explained=True))
    for item, picture in shown
    if not item.problem
]
scales = scales_of([case for _, _, case in cases_shown])
for item, _ in shown:
    if item.problem:
        with st.container(border=True):
            st.text(item.name)
            st.error(item.problem, icon=":material/broken_image:")
for item, picture, case in cases_shown:
    with st.container(border=True):
        st.text(item.name)
        override(item, case)
        show_case(request, item, picture, case, opacity, scales)
if scales:
    legend(request)
