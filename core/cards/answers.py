"""Answers of a run's record to the items of checklists, by name; "" if the record has no answer."""

from core.analysis.saliency_sanity import caution_for
from core.analysis.subgroups import characteristics, title_of
from core.cards.subject import Subject, encoder_training_data, limits, operating_point, training_data
from core.inference.image_check import FILE as IMAGE_CHECK_FILE
from core.metrics import METRICS

_USUAL = {  # the same for every run
    "ensemble": "None: a single network.",
    "predictors": "The pixels of one image; nothing else about the patient.",
    "uncertainty": "95% intervals over test patients, by a bootstrap that resamples patients as a whole; the training "
    "images are fixed.",
    "updating": "None.",
    "use": "Research use only: not a medical device, and not for decisions about patients.",
}
_SETTINGS = ("epochs", "batch_size", "lr", "weight_decay", "augment", "imbalance", "loss", "optimizer", "schedule")


def answers_of(subject: Subject) -> dict[str, str]:
    """Return all answers of a run's record, by the name that items give."""
    return _USUAL | _on_data(subject) | _on_model(subject) | _on_evaluation(subject)


def _on_data(subject: Subject) -> dict[str, str]:
    """Return the answers on the study, its images, their labels and their split."""
    meta, data, rows = subject.meta, subject.data, training_data(subject)
    licence = f"license: {data.licence}" if data and data.licence else ""
    source = (meta.dataset_title, data.citation, data.url, licence) if data else ()
    retrospective = "Retrospective: a published data set." if data else ""
    kept = f"{data.group_key}; copies of an image are kept together." if data else ""
    size = "The subset is balanced as far as possible" if meta.train_size else "All images are used"
    return {
        "aim": f"To measure the performance reached with {meta.train_size or 'all'} labeled images"
        f"{' per class' if meta.train_size else ''}, compared with model families trained on the same images.",
        "retrospective": "Neither: the images are computer-generated." if meta.synthetic else retrospective,
        "source": "; ".join(filter(None, source)) + ". " + " ".join(data.caveats) if data else "",
        "preprocessing": f"Resized to {meta.size} x {meta.size} pixels"
        f"{f', after {meta.preparation}' if meta.preparation else ''}, scaled to [0, 1] and normalized (mean "
        f"{meta.mean[0]:g}, standard deviation {meta.std[0]:g}). Augmentation of training images: "
        f"{meta.config.get('augment', 'none')}.",
        "subset": f"{rows['Labeled images']}; subsets of one seed are nested. Subset hash {meta.subset_hash[:12]}.",
        "missing": "Images whose label for a finding is unknown are excluded for that finding."
        if meta.multilabel
        else "Every image has a label; files that cannot be read are excluded and listed.",
        "partitions": f"{' '.join(meta.notes)} Split hash {meta.split_hash[:12]}.".strip(),
        "level": f"Not disjoint: data leakage was allowed for {meta.leaks} images." if meta.leaks else kept,
        "sample size": f"{meta.images:,} training and {subject.tests:,} test images. No sample size calculation was "
        "performed.",
        "numbers": f"Training: {rows['Labeled images']} ({rows['Images per epoch']} per epoch). "
        f"Test: {subject.tests:,}.",
        "outcome": f"{rows['Task']}, according to the data set's labels.",
        "imbalance": f"{size}; handling of class imbalance: {meta.config.get('imbalance', 'none')}.",
        "people": characteristics(subject.folder.parent) if subject.folder else "",
    }


def _on_model(subject: Subject) -> dict[str, str]:
    """Return the answers on the network, its training, its decisions and its availability."""
    meta, rows = subject.meta, operating_point(subject)
    transfer, scratch = "transfer learning with a deep network", "a deep network trained from scratch"
    stated = [f"{name} {value}" for name in _SETTINGS if (value := meta.config.get(name)) not in (None, "")]
    weights = "are stored with the run" if meta.has_weights else "are not stored"
    where = f"; the data: {subject.data.url}" if subject.data and subject.data.url else ""
    return {
        "technology": f"Development and evaluation of {scratch if meta.family == 'scratch' else transfer} "
        f"({meta.model}, {meta.strategy}) for {' or '.join(meta.titles)}.",
        "model": subject.shape,
        "encoder": encoder_training_data(subject),
        "software": ", ".join(f"{name} {version}" for name, version in meta.versions.items()),
        "training": f"Strategy {meta.strategy}, trained: {meta.trained}; {', '.join(stated)}.",
        "selection": f"On images of the training subset only: {meta.selection}." if meta.selection else "",
        "output": f"Calibrated probabilities (temperature {rows['Temperature']}); decision rule: "
        f"{rows['Decision rule']}.",
        "details": f"The record of the run {meta.run}, and the program's source code under the MIT license.",
        "availability": f"The program is under the MIT license; the run's weights {weights}{where}.",
        "specification": "Weights in the run's folder; its model card offers them for other programs, as ONNX and "
        "safetensors files."
        if meta.has_weights
        else "",
    }


def _on_evaluation(subject: Subject) -> dict[str, str]:
    """Return the answers on performance, external tests, groups of patients and limits."""
    measured = {name: f"{METRICS[name].title} {estimate:.3f}" for name, estimate in subject.estimates.items()}
    performance = f"{'; '.join(measured.values())} (95% intervals over test patients)."
    diagnostic = [measured[name] for name in ("sensitivity", "specificity", "precision") if name in measured]
    refused = [row for row in subject.meta.external.values() if row.refused]
    caution = caution_for(subject.folder, subject.meta) if subject.folder else ""
    has_image_check = subject.folder is not None and (subject.folder.parent / IMAGE_CHECK_FILE).is_file()
    return {
        "metrics": ", ".join(METRICS[name].title for name in subject.estimates),
        "explainability": "Grad-CAM and other attributions on request. They show what raised a score, not where "
        f"disease is. {caution}".strip(),
        "internal": f"{subject.tests:,} test images of the same source, not used for any fitting.",
        "external": " ".join(
            [
                *(result.sentence("auroc") for result in subject.elsewhere),
                *(f"Not evaluated on {row.title}: {row.refused}" for row in refused),
            ]
        ),
        "performance": f"{performance} {_by_group(subject)}".strip(),
        "fairness": "Performance by sex and age with intervals is on the model card. No measures were taken to reduce "
        "differences between groups."
        if subject.subgroups
        else "",
        "diagnostic": "; ".join(diagnostic),
        "limitations": " ".join(limits(subject)),
        "poor input": "Files that cannot be read are rejected. An image check rejects images unlike the training "
        "images, and rotated or inverted ones; an override is recorded in the report."
        if has_image_check
        else "",
    }


def _by_group(subject: Subject) -> str:
    """Return one metric by sex and age, with group sizes."""
    parts = []
    for group in subject.subgroups:
        name, estimate = next(iter(group.figures.items()), ("", None))
        performance = f"{title_of(name)} {estimate:.3f}" if estimate else group.too_few
        parts.append(f"{group.by.lower()} {group.name} ({group.images:,} images): {performance}")
    return f"{'; '.join(parts)}." if parts else ""
