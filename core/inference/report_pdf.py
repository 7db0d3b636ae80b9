"""Report on one image as PDF: a page for readers, and an appendix with the other values of the JSON report.

Fonts are embedded; nothing is fetched.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

from PIL import Image

from core.data.images import reduced
from core.explain.quality import Faithfulness
from core.inference.case import Case
from core.inference.conclusion import conclude
from core.inference.report_json import THUMBNAIL_SIDE, ReportOptions, as_record
from core.inference.sentences import caveats, data_caveats, percent, percent_range
from core.models import FAMILY_TITLES

_FONT, _MARGIN, _TEXT, _SMALL = "DejaVu", 16, 10, 8
_IMAGE_SIDE = 42  # mm
_WIDTHS = (25, 45, 80)  # of the columns of predictions, relative


@lru_cache(maxsize=1)
def _fonts() -> tuple[Path, Path]:
    """Return a regular and a bold font with Greek and Cyrillic, which matplotlib includes."""
    import matplotlib

    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    return folder / "DejaVuSans.ttf", folder / "DejaVuSans-Bold.ttf"


@lru_cache(maxsize=1)
def _drawable() -> frozenset[int]:
    from fontTools.ttLib import TTFont

    with TTFont(_fonts()[0], lazy=True) as font:
        return frozenset(font.getBestCmap())


def _safe(text: str) -> str:
    """Replace letters that the font lacks by question marks; the library would log their names otherwise."""
    return "".join(letter if ord(letter) in _drawable() else "?" for letter in text.replace("\n", " "))


class _Page:
    """A document written from top to bottom."""

    def __init__(self, made: datetime) -> None:
        from fpdf import FPDF

        self.sheet = FPDF(format="A4")
        self.sheet.set_margin(_MARGIN)
        self.sheet.set_auto_page_break(True, _MARGIN)
        self.sheet.set_lang("en")
        self.sheet.set_title("Lowshot case report")
        self.sheet.set_creation_date(made)
        for style, path in zip(("", "B"), _fonts(), strict=True):
            self.sheet.add_font(_FONT, style, path)
        self.sheet.add_page()

    def line(self, text: str, size: int = _TEXT, bold: bool = False) -> None:
        """Write a paragraph."""
        self.sheet.set_font(_FONT, "B" if bold else "", size)
        self.sheet.multi_cell(0, size * 0.5, _safe(text), align="L", new_x="LMARGIN", new_y="NEXT")
        self.sheet.ln(1)

    def heading(self, text: str) -> None:
        """Write a heading with space above."""
        self.sheet.ln(2)
        self.line(text, 12, bold=True)

    def table(self, rows: Sequence[tuple[str, ...]], widths: tuple[int, ...] | None = None) -> None:
        """Write a table; the first row is its heading, and widths are relative."""
        from fpdf.fonts import FontFace

        bold = FontFace(emphasis="BOLD")
        self.sheet.set_font(_FONT, "", _SMALL)
        with self.sheet.table(line_height=4.5, text_align="LEFT", headings_style=bold, col_widths=widths) as table:
            for row in rows:
                table.row([_safe(cell) for cell in row])
        self.sheet.ln(2)

    def images(self, images: Mapping[str, Image.Image]) -> None:
        """Draw small images side by side, each with its caption."""
        top, left = self.sheet.get_y(), self.sheet.l_margin
        if top + _IMAGE_SIDE + 2 * _MARGIN > self.sheet.h:
            self.sheet.add_page()
            top = self.sheet.get_y()
        for column, (title, image) in enumerate(images.items()):
            thumbnail = reduced(image.convert("RGB"), THUMBNAIL_SIDE)
            scale = _IMAGE_SIDE / max(thumbnail.size)
            x = left + column * (_IMAGE_SIDE + 3)
            self.sheet.image(
                thumbnail, x, top, thumbnail.width * scale, thumbnail.height * scale, alt_text=_safe(title)
            )
            self.sheet.set_xy(x, top + _IMAGE_SIDE + 1)
            self.sheet.set_font(_FONT, "", _SMALL)
            self.sheet.multi_cell(_IMAGE_SIDE, 3.5, _safe(title), align="L", new_x="LMARGIN", new_y="TOP")
        self.sheet.set_y(top + _IMAGE_SIDE + 12)


def as_pdf(
    case: Case,
    options: ReportOptions | None = None,
    heatmaps: Mapping[str, Image.Image] | None = None,
    made: datetime | None = None,
) -> bytes:
    """Format a case as a PDF file.

    Args:
        case: the case with its results.
        options: optional content.
        heatmaps: overlays by title, drawn next to the thumbnail; omitted without it.
        made: time; now by default.
    """
    options, made = options or ReportOptions(), made or datetime.now(UTC)
    record, conclusion = as_record(case, options, made), conclude(case)
    page = _Page(made)
    page.line("Lowshot case report" + (f": {options.case}" if options.case else ""), 16, bold=True)
    page.line(record["caveats"][0], bold=True)
    file = f" · file {case.name}" if options.name else ""
    page.line(f"{case.task} · made {made:%d %B %Y, %H:%M %Z}{file}", _SMALL)
    page.heading(conclusion.title)
    page.line(conclusion.details)
    if options.thumbnail:
        page.images({"The image as read": options.thumbnail, **(heatmaps or {})})
    heading = ("Network", "Prediction", "Accuracy on test images")
    page.table([heading, *map(_summary, record["results"])], _WIDTHS)
    page.heading("Caveats")
    for line in filter(None, [*caveats(case)[1:], options.caution]):
        page.line(f"• {line}", _SMALL)
    page.sheet.add_page()
    _write_appendix(page, case, record)
    return bytes(page.sheet.output())


def _summary(result: dict[str, Any]) -> tuple[str, str, str]:
    """Return a network's row in the table of predictions."""
    title = FAMILY_TITLES[result["family"]]
    if result["problem"]:
        return title, "no prediction", result["problem"]
    label = next(label for label, name in result["class_titles"].items() if name == result["about"])
    chance, seeds = percent(result["probabilities"][label]), result["seed_interval"]
    answer = f"{result['decision']} ({result['about']}: {chance})"
    if seeds and not isinstance(seeds, str):
        answer += f". Retrained on other samples: {percent_range(seeds['low'], seeds['high'])}"
    return title, answer, " ".join(result["how_often_right"]) or "unknown"


def _write_appendix(page: _Page, case: Case, record: dict[str, Any]) -> None:
    """Write what makes the report traceable: hashes, versions, all probabilities and the limits of the data."""
    page.line("Appendix", 14, bold=True)
    page.line(f"Image: {case.width} x {case.height} pixels, SHA-256 of its pixels {case.pixels}", _SMALL)
    page.line(f"Image check: {record['image_check']['words']}", _SMALL)
    if both := record["two_stage"]:
        page.heading(f"Two stages: {both['outcome']}")
        page.line(both["words"])
        page.line(both["measured_words"], _SMALL)
    for result in record["results"]:
        _write_result(page, result)
    for overlap in record["heatmap_overlap"]:
        pair = " and ".join(FAMILY_TITLES[family] for family in overlap["families"])
        share = overlap["share_of_strongest_fifth_in_common"]
        page.line(f"Heatmaps of {pair}: {share:.0%} of the strongest fifth overlaps (20% by chance).", _SMALL)
    if limits := data_caveats(case):
        page.heading("Limits of the data")
        for line in limits:
            page.line(f"• {line}", _SMALL)
    page.heading("Versions")
    page.line(", ".join(f"{name} {version}" for name, version in record["versions"].items()), _SMALL)


def _write_result(page: _Page, result: dict[str, Any]) -> None:
    page.heading(f"{FAMILY_TITLES[result['family']]}: {result['model']}, {result['strategy']}")
    if result["problem"]:
        page.line(result["problem"])
    else:
        page.line(f"Decision: {result['decision']}. {result['trained_on']}")
        rows = [("Class", "Probability", "Threshold")]
        for label, probability in result["probabilities"].items():
            threshold = result["thresholds"][label]
            rows.append(
                (result["class_titles"][label], percent(probability), "-" if threshold is None else percent(threshold))
            )
        page.table(rows)
        page.line(_uncertainty(result), _SMALL)
        page.line(_evidence(result["heatmap"]), _SMALL)
    files = "; ".join(f"{name} {value}" for name, value in result["files_sha256"].items())
    encoder = ", ".join(f"{name} {value}" for name, value in result["encoder"].items() if value)
    page.line(f"Run {result['run']}, seed {result['seed']}. Encoder: {encoder}. SHA-256: {files}.", _SMALL)


def _uncertainty(result: dict[str, Any]) -> str:
    seeds, members = result["seed_interval"], result["conformal_set"]
    if not isinstance(seeds, str):
        seeds = f"Retrained on other samples: {percent_range(seeds['low'], seeds['high'])}. {seeds['how']}"
    if isinstance(members, str):
        return f"{seeds} No prediction set: {members}" if members else seeds
    classes = ", ".join(members["classes"]) or "no class"
    return f"{seeds} {members['level']:.0%} prediction set: {classes}. {members['how']}"


def _evidence(heatmap: dict[str, Any]) -> str:
    if "reason" in heatmap:
        return f"{heatmap['explainer']}: no heatmap, because {heatmap['reason']}"
    if heatmap["flat"]:
        return f"{heatmap['explainer']} for {heatmap['class']}: no positive evidence."
    description = f"{heatmap['where']}, peak {heatmap['peak']:.3g}. {heatmap['note']}"
    if heatmap["faithfulness"]:
        description += f" {Faithfulness(**heatmap['faithfulness']).text}"
    return f"{heatmap['explainer']} for {heatmap['class']}: {description}"
