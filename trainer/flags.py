"""Types of command-line flags, and training settings as flags or in a settings file."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.errors import BadRequest
from core.paths import DEVICES
from core.registry import Registry


def minutes(text: str) -> float:
    """A number of minutes above 0."""
    try:
        found = float(text)
    except ValueError:
        found = 0.0
    if not 0 < found < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a number of minutes above 0, but got {text!r}")
    return found


def count(text: str) -> int:
    """A whole number of 1 or more."""
    try:
        found = int(text)
    except ValueError:
        found = 0
    if found < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of 1 or more, but got {text!r}")
    return found


def names(text: str) -> list[str]:
    """Names joined by commas."""
    found = [part.strip() for part in text.split(",") if part.strip()]
    if not found:
        raise argparse.ArgumentTypeError(f"expected names joined by commas, but got {text!r}")
    return found


def pairs(text: str) -> dict[str, str]:
    """Names with an equals sign between them, joined by commas."""
    found = {}
    for part in names(text):
        there, sign, here = (word.strip() for word in part.partition("="))
        if not (there and sign and here):
            raise argparse.ArgumentTypeError(f"expected THERE=HERE joined by commas, but got {part!r}")
        if there in found:
            raise argparse.ArgumentTypeError(f"{there!r} is mapped twice; a class there is one class here")
        found[there] = here
    return found


def sizes(text: str) -> list[int | None]:
    """Labelled images a class, joined by commas; None for `full`."""
    try:
        found = [None if part == "full" else int(part) for part in text.split(",") if part]
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected numbers or 'full' joined by commas, but got {text!r}") from None
    if not found or any(size is not None and size < 1 for size in found):
        raise argparse.ArgumentTypeError(f"expected at least 1 image a class, but got {text!r}")
    return found


def seeds(text: str) -> list[int]:
    """Seeds joined by commas."""
    try:
        found = [int(part) for part in text.split(",") if part]
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected whole numbers joined by commas, but got {text!r}") from None
    if not found or min(found) < 0:
        raise argparse.ArgumentTypeError(f"expected seeds of 0 or more, but got {text!r}")
    return found


@dataclass(frozen=True)
class Option:
    """A setting that can be stated.

    Attributes:
        name: of the setting; the flag is the same with hyphens.
        kind: what its text is read as.
        meaning: for people.
        least: smallest value; None where any will do.
        above: whether the value must lie above `least`.
        below: what the value must lie below; None where it need not.
    """

    name: str
    kind: type[str] | type[int] | type[float]
    meaning: str
    least: float | None = None
    above: bool = False
    below: float | None = None

    @property
    def flag(self) -> str:
        """As typed on the command line."""
        return "--" + self.name.replace("_", "-")

    def check(self, value: Any) -> Any:
        """The value as the setting holds it.

        Raises:
            BadRequest: if it is of another kind, or out of range.
        """
        wrong = not isinstance(value, int | float if self.kind is float else self.kind) or isinstance(value, bool)
        if wrong or self._is_out_of_range(value):
            limit = "" if self.least is None else f" {'above' if self.above else 'of at least'} {self.least:g}"
            limit += "" if self.below is None else f" and below {self.below:g}"
            names = {str: "a name", int: "a whole number", float: "a number"}
            raise BadRequest(f"Expected {self.flag} to be {names[self.kind]}{limit}, but got {value!r}.")
        return float(value) if self.kind is float else value

    def _is_out_of_range(self, value: Any) -> bool:
        if self.least is None:
            return False
        low = value <= self.least if self.above else value < self.least
        return low or value != value or (self.below is not None and value >= self.below)


DEFAULT_SEEDS = "0,1,2,3,4"
OPTIONS: Registry[Option] = Registry("setting")
DATA = ("augment", "preparation", "imbalance")
_SEE = "python -m trainer list shows them"

for _row in (
    Option("augment", str, "augmentations joined by + (default: the strategy's)"),
    Option("preparation", str, "preprocessing steps joined by + (default: none)"),
    Option("imbalance", str, f"how class imbalance is met; {_SEE}"),
    Option("loss", str, f"training loss; {_SEE} (class-weighted: --imbalance class-weights)"),
    Option("label_smoothing", float, "share of each label that is spread over all classes", 0, below=1),
    Option("optimizer", str, f"how weights move; {_SEE}"),
    Option("schedule", str, f"how the learning rate changes; {_SEE}"),
    Option("epochs", int, "passes over the labelled images", 1),
    Option("min_steps", int, "steps at least, however few images there are", 0),
    Option("batch_size", int, "images a step", 1),
    Option("lr", float, "peak learning rate", 0, above=True),
    Option("weight_decay", float, "of the optimiser", 0),
    Option("clip", float, "norm at which the gradients are clipped", 0, above=True),
    Option("average", float, "decay a step of the moving average of the weights that is kept; 0 for none", 0, below=1),
    Option("patience", int, "epochs without a lower held-out loss after the peak until a fold stops; 0 for none", 0),
    Option("folds", int, "parts of the cross-validation inside the subset", 2),
    Option("views", int, "augmented views of each image on which a frozen encoder's head is trained", 0),
    Option("scaling", str, "of embeddings: unit (centered, each of unit length) or standard (each feature by itself)"),
    Option("strength", float, "inverse of the penalty of logistic regression; 0 to choose it out of fold", 0),
    Option("fold_ensemble", int, "1 to average the heads of the folds and the final head", 0, below=2),
    Option("mirror", int, "1 to average an image and its mirror image at test time", 0, below=2),
    Option("tune", str, "which parameters of the encoder fine-tuning changes: layers, norm, bias or lora"),
    Option("rank", int, "of the updates of --tune lora", 1),
    Option("frozen_below", float, "share of the rate below which a layer of the encoder stays frozen", 0, below=1),
    Option("layer_decay", float, "factor of the rate from each layer to the one before it", 0, above=True),
    Option("depth", int, "stages of the encoder, from the head down, that are fine-tuned", 1),
    Option("thaw_every", int, "epochs after which the next stage down starts to learn; 0 for all at once", 0),
    Option("episodes", int, "tasks of other data sets from which the start is meta-learnt", 1),
    Option("tasks", int, "tasks before each step of the outer loop", 1),
    Option("shots", int, "images a class of a task's support set", 1),
    Option("queries", int, "images a class of a task's query set", 1),
    Option("inner_lr", float, "rate of the adaptation to a task", 0, above=True),
    Option("inner_steps", int, "steps of the adaptation to a task while meta-learning", 1),
    Option("adapt_steps", int, "steps of the adaptation to the subset itself", 1),
    Option("outer_lr", float, "peak rate of the outer loop", 0, above=True),
    Option("order", str, "second, first (cheaper), or anil (adapts the head only)"),
    Option("side", int, "input size in pixels of a network from scratch (default: the model's own)", 32),
    Option("sources", str, "data sets that tasks come from, joined by + (default: all here that are unrelated)"),
):
    OPTIONS.add(_row)


def add_settings(parser: argparse.ArgumentParser, leave_out: Iterable[str] = ()) -> None:
    """Flags for all options, and for a file that states several."""
    group = parser.add_argument_group("settings in which the training is to depart from its strategy's own")
    for option in OPTIONS.values():
        if option.name not in leave_out:
            group.add_argument(option.flag, type=option.kind, default=None, help=option.meaning)
    group.add_argument("--settings", type=Path, metavar="FILE", help="a JSON file of settings; flags go before it")


def asked(arguments: argparse.Namespace) -> dict[str, Any]:
    """The options that are stated, those of the file first.

    Raises:
        BadRequest: if the file cannot be read or states what is no setting.
        UnknownName: if it names what is none.
    """
    stated = read_settings(arguments.settings) if arguments.settings else {}
    flags = {name: value for name in OPTIONS if (value := getattr(arguments, name, None)) not in (None, "")}
    return {**stated, **flags}


def read_settings(path: Path) -> dict[str, Any]:
    """Options from a file that holds a JSON object of them, as `tune` writes it under `settings`."""
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise BadRequest(f"{path} is not a JSON file that can be read ({error}).") from None
    stated = content.get("settings", content) if isinstance(content, dict) else None
    if not isinstance(stated, dict):
        raise BadRequest(f"Expected {path} to hold a JSON object of settings, such as {{'lr': 0.001}}.")
    return checked(stated)


def checked(stated: Mapping[str, Any]) -> dict[str, Any]:
    """Options by name with values of the right kind.

    Raises:
        UnknownName: if there is no such option.
        BadRequest: if a value is of another kind, or out of range.
    """
    return {name: OPTIONS[name].check(value) for name, value in stated.items() if value not in (None, "")}


def add_data(parser: argparse.ArgumentParser) -> None:
    """Add `--dataset` and `--folder`, of which one may be given."""
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--dataset", default="kermany", help="a data set's name (default: kermany)")
    add_folder(where)


def add_folder(group: argparse._MutuallyExclusiveGroup) -> None:
    """Add `--folder`."""
    group.add_argument(
        "--folder",
        type=Path,
        metavar="PATH",
        help="your own images: a folder of class folders, with or without train and test, or a CSV file",
    )


def add_training(parser: argparse.ArgumentParser) -> None:
    """Add the flags of every command that trains."""
    parser.add_argument(
        "--allow-leaks", action="store_true",
        help="train although copies or patients cross between the parts; the run and every page will say so",
    )  # fmt: skip
    parser.add_argument("--device", choices=DEVICES, default="auto")
    parser.add_argument("--json", action="store_true", help="print one JSON object a run")


def add_external(parser: argparse.ArgumentParser) -> None:
    """Add `--external` and `--external-classes`."""
    parser.add_argument(
        "--external", action="append", metavar="NAME|PATH",
        help="an external test set on which every run is evaluated too: a data set's name, or your own images laid out "
        "as --folder takes them; may be given several times",
    )  # fmt: skip
    parser.add_argument(
        "--external-classes", type=pairs, metavar="THERE=HERE,...",
        help="which classes of the external test set are which of the data set (default: those of the same name)",
    )  # fmt: skip
