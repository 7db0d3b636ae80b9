"""Report on one image as JSON: everything needed to trace the predictions and their uncertainty.

The image is identified by the SHA-256 of its pixels. The upload's name and a thumbnail are included only on request,
because both may identify a patient.
"""

import base64
import io
import json
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from PIL import Image

from core.data.images import reduced
from core.inference.case import Case, NetworkResult
from core.inference.conclusion import conclude
from core.inference.sentences import (
    caveats,
    check_text,
    data_caveats,
    decision,
    threshold_of,
    track_record_text,
    training_text,
    where,
)
from core.inference.two_stage import outcome, performance_text, verdict_text
from core.inference.uncertainty import PredictionSet, SeedInterval
from core.paths import library_versions

FORMAT = 2
THUMBNAIL_SIDE = 256


@dataclass(frozen=True)
class ReportOptions:
    """Optional content of a report.

    Attributes:
        name: whether to include the upload's name.
        thumbnail: a small copy of the image, or None.
        case: what the user calls the patient or the case; "" for nothing.
        prevalence: share of patients with the condition, on which predictive values depend.
        caution: what to know about every prediction of the task; "" for nothing.
    """

    name: bool = False
    thumbnail: Image.Image | None = None
    case: str = ""
    prevalence: float = 0.1
    caution: str = ""


def as_record(case: Case, options: ReportOptions | None = None, made: datetime | None = None) -> dict[str, Any]:
    """Convert a case to plain values.

    Args:
        case: the case with its results.
        options: optional content; none by default.
        made: time; now by default.
    """
    options = options or ReportOptions()
    image: dict[str, Any] = {"pixels_sha256": case.pixels, "width": case.width, "height": case.height}
    if options.name:
        image["name"] = case.name
    if options.case:
        image["case"] = options.case
    if options.thumbnail:
        image["thumbnail_png_base64"] = base64.b64encode(_png(options.thumbnail)).decode()
    return {
        "report": "Lowshot case report",
        "format": FORMAT,
        "made": (made or datetime.now(UTC)).isoformat(timespec="seconds"),
        "versions": library_versions(),
        "task": case.task,
        "synthetic": case.synthetic,
        "image": image,
        "image_check": {
            **(asdict(case.check) if case.check else {}),
            "present": case.check is not None,
            "overridden": case.overridden,
            "words": check_text(case),
        },
        "summary": conclude(case).text,
        "two_stage": _two_stage(case),
        "results": [_network(family, result, case, options.prevalence) for family, result in case.results.items()],
        "heatmap_overlap": [
            {"families": list(pair), "share_of_strongest_fifth_in_common": share, "by_chance": 0.2}
            for pair, share in case.overlaps.items()
        ],
        "caveats": [*caveats(case), *([options.caution] if options.caution else []), *data_caveats(case)],
    }


def _two_stage(case: Case) -> dict[str, Any] | None:
    verdict = case.verdict
    if verdict is None:
        return None
    stages = verdict.stages
    screen, confirmer = (case.results[family].meta for family in (stages.screen, stages.confirmer))
    return {
        "outcome": outcome(verdict),
        "words": verdict_text(verdict),
        "suspicious_classes": [confirmer.labels[index] for index in stages.suspicious],
        "screen": {
            "run": screen.run,
            "probability": verdict.probability,
            "threshold": stages.point.threshold,
            "wanted_sensitivity": stages.point.aim.sensitivity,
            "suspicious": verdict.passed,
        },
        "second_stage": {"run": confirmer.run, "decision": verdict.second or None},
        "measured": stages.figures if isinstance(stages.figures, str) else stages.figures.record(),
        "measured_words": performance_text(stages),
    }


def as_json(case: Case, options: ReportOptions | None = None, made: datetime | None = None) -> bytes:
    """Format a case as a JSON file."""
    return json.dumps(as_record(case, options, made), indent=2, ensure_ascii=False, allow_nan=False).encode()


def _network(family: str, result: NetworkResult, case: Case, prevalence: float) -> dict[str, Any]:
    meta, prediction = result.meta, result.prediction
    record: dict[str, Any] = {
        "family": family,
        "run": meta.run,
        "model": meta.model,
        "strategy": meta.strategy,
        "variant": meta.variant,
        "seed": meta.seed,
        "trained_on": training_text(meta),
        "labelled_images": meta.images,
        "subset_hash": meta.subset_hash,
        "data_fingerprint": meta.fingerprint,
        "encoder": {
            key: value for key, value in meta.encoder.items() if (key, meta.encoder["kind"]) != ("ref", "file")
        },
        "files_sha256": dict(meta.hashes),
        "versions_at_training": dict(meta.versions),
        "trained_with_leaks": bool(meta.leaks),
        "problem": result.problem or None,
    }
    if prediction is None:
        return record
    thresholds = [threshold_of(meta, index) for index in range(len(meta.labels))]
    values = prediction.probabilities.tolist()
    return record | {
        "class_titles": dict(zip(meta.labels, meta.titles, strict=True)),
        "probabilities": dict(zip(meta.labels, values, strict=True)),
        "thresholds": dict(zip(meta.labels, thresholds, strict=True)),
        "temperature": meta.temperature,
        "decision": decision(meta, prediction),
        "about": meta.titles[prediction.target],
        "how_often_right": track_record_text(result, prevalence),
        "seed_interval": _seed_interval(result.seed_interval),
        "conformal_set": asdict(result.prediction_set)
        if isinstance(result.prediction_set, PredictionSet)
        else result.prediction_set,
        "heatmap": _heatmap(result, case),
    }


def _seed_interval(interval: SeedInterval | str) -> dict[str, Any] | str:
    return interval if isinstance(interval, str) else asdict(interval)


def _heatmap(result: NetworkResult, case: Case) -> dict[str, Any]:
    explanation = result.explanation
    if explanation is None:
        reason = result.prediction.unexplained if result.prediction else ""
        return {"explainer": case.explainer, "reason": reason or "it was not requested"}
    return {
        "explainer": case.explainer,
        "class": result.meta.titles[explanation.target],
        "peak": explanation.peak,
        "flat": explanation.degenerate,
        "where": where(explanation),
        "note": explanation.note,
        "faithfulness": asdict(result.faithfulness) if result.faithfulness else None,
    }


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    reduced(image, THUMBNAIL_SIDE).save(buffer, "PNG")
    return buffer.getvalue()
