"""What a run's record answers to the items of a checklist: a function an item, "" where the record does not say."""

from __future__ import annotations

from core.analysis.saliency_sanity import told_of
from core.analysis.subgroups import characteristics, title_of
from core.cards.subject import Subject, limits, operating_point, training_data, what_it_saw
from core.inference.input_gate import FILE as GATE_FILE
from core.metrics import METRICS


def technology(subject: Subject) -> str:
    """Kind of technology, task and outcome."""
    meta = subject.meta
    kind = (
        "transfer learning with a deep network" if meta.family != "scratch" else "a deep network trained from scratch"
    )
    return f"Development and evaluation of {kind} ({meta.model}, {meta.strategy}) for {' or '.join(meta.titles)}."


def aim(subject: Subject) -> str:
    """Objective."""
    size = f"{subject.meta.train_size} labelled images a class" if subject.meta.train_size else "all labelled images"
    return f"To measure what {size} can buy, against other families trained on the same images."


def retrospective(subject: Subject) -> str:
    """Design: only images that were published are used."""
    if subject.meta.synthetic:
        return "Neither: the images are drawn by a program."
    return "Retrospective: a published data set." if subject.data else ""


def source(subject: Subject) -> str:
    """Data sources."""
    data = subject.data
    if data is None:
        return ""
    parts = [subject.meta.dataset_title, data.citation, data.url, f"licence: {data.licence}" if data.licence else ""]
    return "; ".join(part for part in parts if part) + ". " + " ".join(data.caveats)


def preprocessing(subject: Subject) -> str:
    """What happens to an image before the network sees it."""
    meta = subject.meta
    steps = f", after {meta.preparation}" if meta.preparation else ""
    return (
        f"Resized to {meta.size} x {meta.size} pixels{steps}, scaled to [0, 1], then less {meta.mean[0]:g} over "
        f"{meta.std[0]:g}. Training images are augmented: {meta.config.get('augment', 'none')}."
    )


def subset(subject: Subject) -> str:
    """Subsets are drawn at random, class by class, and nested."""
    rows = training_data(subject)
    return f"{rows['Labelled images']}; subsets of one seed are nested. Subset hash {subject.meta.subset_hash[:12]}."


def missing(subject: Subject) -> str:
    """Unknown labels, which only tasks of findings have."""
    if subject.meta.multilabel:
        return "Images whose label of a finding is unknown do not count for it."
    return "Every image has a label; files that cannot be read are left out and named."


def partitions(subject: Subject) -> str:
    """Notes on the split."""
    return f"{' '.join(subject.meta.notes)} Split hash {subject.meta.split_hash[:12]}.".strip()


def level(subject: Subject) -> str:
    """What is never on both sides."""
    if subject.meta.leaks:
        return f"Not disjoint: leaks were allowed for {subject.meta.leaks} images."
    return f"{subject.data.group_key}; copies of one picture count as one." if subject.data else ""


def sample_size(subject: Subject) -> str:
    """Sizes as they are, which were chosen and not computed."""
    return (
        f"{subject.meta.images:,} training and {subject.tests:,} test images. No sample size was computed beforehand."
    )


def model(subject: Subject) -> str:
    """The network."""
    return subject.shape


def software(subject: Subject) -> str:
    """Libraries."""
    return ", ".join(f"{name} {version}" for name, version in subject.meta.versions.items())


def start(subject: Subject) -> str:
    """Starting weights."""
    return what_it_saw(subject)


def training(subject: Subject) -> str:
    """Strategy and settings."""
    shown = ("epochs", "batch_size", "lr", "weight_decay", "augment", "imbalance", "loss", "optimizer", "schedule")
    stated = [f"{name} {value}" for name in shown if (value := subject.meta.config.get(name)) not in (None, "")]
    return f"Strategy {subject.meta.strategy}, trained: {subject.meta.trained}; {', '.join(stated)}."


def selection(subject: Subject) -> str:
    """By which images choices were made."""
    return f"By images of the training subset only: {subject.meta.selection}." if subject.meta.selection else ""


def ensemble(subject: Subject) -> str:
    """There is none in a single run."""
    return "None: one network."


def metrics(subject: Subject) -> str:
    """Names of the metrics."""
    return ", ".join(METRICS[name].title for name in subject.estimates)


def uncertainty(subject: Subject) -> str:
    """How intervals are made."""
    return (
        "95% intervals over test patients, by a bootstrap that resamples them whole; the training images stay as they "
        "are."
    )


def explainability(subject: Subject) -> str:
    """Heatmaps."""
    told = "Grad-CAM and other attributions on request. They show where a score came from, not where disease is."
    return f"{told} {told_of(subject.folder, subject.meta) if subject.folder else ''}".strip()


def internal(subject: Subject) -> str:
    """Test images of the same source."""
    return f"{subject.tests:,} test images of the same source, never used to fit anything."


def external(subject: Subject) -> str:
    """Test images of other sources, with what is lost there."""
    found = [one.sentence("auroc") for one in subject.elsewhere]
    refused = [
        f"Not evaluated on {record.title}: {record.refused}"
        for record in subject.meta.external.values()
        if record.refused
    ]
    return " ".join([*found, *refused])


def numbers(subject: Subject) -> str:
    """Counts."""
    rows = training_data(subject)
    return f"Training: {rows['Labelled images']} ({rows['Shown in an epoch']} an epoch). Test: {subject.tests:,}."


def performance(subject: Subject) -> str:
    """Metrics with intervals."""
    figures = "; ".join(
        f"{METRICS[name].title} {one.value:.3f} ({one.low:.3f} to {one.high:.3f})"
        for name, one in subject.estimates.items()
    )
    return f"{figures} (95% intervals over test patients)"


def performance_by_group(subject: Subject) -> str:
    """Metrics with intervals, as they are and by sex and age."""
    return " ".join(part for part in (f"{performance(subject)}.", by_group(subject)) if part)


def by_group(subject: Subject) -> str:
    """One figure by sex and by age, with the sizes of the groups."""
    parts = []
    for one in subject.subgroups:
        name, found = next(iter(one.figures.items()), ("", None))
        said = f"{title_of(name)} {found.value:.3f} ({found.low:.3f} to {found.high:.3f})" if found else one.too_few
        parts.append(f"{one.by.lower()} {one.name} ({one.images:,} images): {said}")
    return f"{'; '.join(parts)}." if parts else ""


def fairness(subject: Subject) -> str:
    """What was done to see, and to lessen, differences between groups."""
    if not subject.subgroups:
        return ""
    return "Figures by sex and by age with intervals, on the model card. Nothing was done to make groups alike."


def people(subject: Subject) -> str:
    """Who the test images are of."""
    return characteristics(subject.folder.parent) if subject.folder else ""


def poor_input(subject: Subject) -> str:
    """What happens to images of another kind."""
    if subject.folder is None or not (subject.folder.parent / GATE_FILE).is_file():
        return ""
    return (
        "Files that cannot be read are refused. An input gate refuses pictures unlike the training images, turned or "
        "inverted ones; who overrides it finds that in the report."
    )


def diagnostic(subject: Subject) -> str:
    """Metrics at the operating point."""
    names = [name for name in ("sensitivity", "specificity", "precision") if name in subject.estimates]
    rows = [(METRICS[name].title, subject.estimates[name]) for name in names]
    return "; ".join(f"{title} {one.value:.3f} ({one.low:.3f} to {one.high:.3f})" for title, one in rows)


def limitations(subject: Subject) -> str:
    """Known limits."""
    return " ".join(limits(subject))


def use(subject: Subject) -> str:
    """Research only."""
    return "Research use only: not a medical device, and not to decide on a patient."


def details(subject: Subject) -> str:
    """Where all of it is recorded."""
    return f"The record of the run {subject.meta.run}, and the program's source under the MIT licence."


def availability(subject: Subject) -> str:
    """Software, weights, data."""
    weights = "are stored with the run" if subject.meta.has_weights else "are not stored"
    where = f"; the data: {subject.data.url}" if subject.data and subject.data.url else ""
    return f"The program is under the MIT licence; the run's weights {weights}{where}."


def outcome(subject: Subject) -> str:
    """The classes."""
    return f"{training_data(subject)['Task']}, as the data set's labels say."


def predictors(subject: Subject) -> str:
    """The image alone."""
    return "The pixels of one image; nothing else about the patient."


def updating(subject: Subject) -> str:
    """None."""
    return "None."


def imbalance(subject: Subject) -> str:
    """How classes of different size were met."""
    way = subject.meta.config.get("imbalance", "none")
    size = "The subset has as many images of each class as it can" if subject.meta.train_size else "All images are used"
    return f"{size}; way to meet imbalance: {way}."


def output(subject: Subject) -> str:
    """Probabilities and thresholds."""
    rows = operating_point(subject)
    return f"Calibrated probabilities (temperature {rows['Temperature']}); decides for {rows['Decides for']}."


def specification(subject: Subject) -> str:
    """The weights and the export."""
    if not subject.meta.has_weights:
        return ""
    return f"Weights in the run's folder; python -m trainer export {subject.meta.run} writes it for other programs."
