"""Types of command-line flags, and training settings as flags or in a settings file."""

import argparse
import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.data.datasets.custom import custom_dataset
from core.data.specs import DatasetSpec, find_dataset
from core.errors import BadRequest
from core.paths import DEVICES
from core.registry import Registry


def _number(text: str, accepts: Callable[[float], bool], expected: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if math.isfinite(number) and accepts(number):
        return number
    raise argparse.ArgumentTypeError(f"expected {expected}, but got {text!r}")


def minutes(text: str) -> float:
    """Parse a number of minutes above 0."""
    return _number(text, lambda number: number > 0, "a number of minutes above 0")


def count(text: str) -> int:
    """Parse a whole number of 1 or more."""
    if not text.strip().isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of 1 or more, but got {text!r}")
    return int(text)


def share(text: str) -> float:
    """Parse a number of GPUs: a fraction of one, or a whole number; 0 for none."""
    expected = "a fraction of a GPU or a whole number of GPUs"
    return _number(text, lambda number: 0 <= number <= 1 or (number > 1 and number.is_integer()), expected)


def names(text: str) -> list[str]:
    """Parse names joined by commas."""
    parsed = [part.strip() for part in text.split(",") if part.strip()]
    if not parsed:
        raise argparse.ArgumentTypeError(f"expected names joined by commas, but got {text!r}")
    return parsed


def pairs(text: str) -> dict[str, str]:
    """Parse pairs of names, such as THERE=HERE, joined by commas."""
    parsed = {}
    for part in names(text):
        external, sign, own = (word.strip() for word in part.partition("="))
        if not (external and sign and own):
            raise argparse.ArgumentTypeError(f"expected THERE=HERE joined by commas, but got {part!r}")
        if external in parsed:
            raise argparse.ArgumentTypeError(f"{external!r} is mapped twice; map each class to one class only")
        parsed[external] = own
    return parsed


def sizes(text: str) -> list[int | None]:
    """Parse labeled images per class, joined by commas; `full` gives None."""
    try:
        parsed = [None if part == "full" else int(part) for part in text.split(",") if part]
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected numbers or 'full' joined by commas, but got {text!r}") from None
    if not parsed or any(size is not None and size < 1 for size in parsed):
        raise argparse.ArgumentTypeError(f"expected at least 1 image per class, but got {text!r}")
    return parsed


def seeds(text: str) -> list[int]:
    """Parse seeds joined by commas."""
    try:
        parsed = [int(part) for part in text.split(",") if part]
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected whole numbers joined by commas, but got {text!r}") from None
    if not parsed or min(parsed) < 0:
        raise argparse.ArgumentTypeError(f"expected seeds of 0 or more, but got {text!r}")
    return parsed


@dataclass(frozen=True)
class Option:
    """A training setting that a user may change.

    Attributes:
        name: name of the setting; the flag is the same with hyphens.
        kind: type of its value.
        meaning: help text.
        least: smallest value; None for no limit.
        above: whether the value must lie above `least`.
        below: limit that the value must lie below; None for no limit.
        choices: allowed values; empty if there is no fixed list, or a registry holds it.
    """

    name: str
    kind: type[str] | type[int] | type[float]
    meaning: str
    least: float | None = None
    above: bool = False
    below: float | None = None
    choices: tuple[str, ...] = ()

    @property
    def flag(self) -> str:
        """The flag on the command line."""
        return "--" + self.name.replace("_", "-")

    def check(self, value: Any) -> Any:
        """Return the value with the type of the setting.

        Raises:
            BadRequest: if it has another type, is out of range or is not one of the choices.
        """
        wrong_type = not isinstance(value, int | float if self.kind is float else self.kind) or isinstance(value, bool)
        if wrong_type or self._is_out_of_range(value):
            limit = "" if self.least is None else f" {'above' if self.above else 'of at least'} {self.least:g}"
            limit += "" if self.below is None else f" and below {self.below:g}"
            kinds = {str: "a name", int: "a whole number", float: "a number"}
            raise BadRequest(f"Expected {self.flag} to be {kinds[self.kind]}{limit}, but got {value!r}.")
        if self.choices and value not in self.choices:
            raise BadRequest(f"Expected {self.flag} to be one of {', '.join(self.choices)}, but got {value!r}.")
        return float(value) if self.kind is float else value

    def _is_out_of_range(self, value: Any) -> bool:
        if self.least is None:
            return False
        low = value <= self.least if self.above else value < self.least
        return low or value != value or (self.below is not None and value >= self.below)


OPTIONS: Registry[Option] = Registry("setting")
DATA = ("augment", "preparation", "imbalance")
_SEE = "python -m trainer list shows them"

OPTIONS.add(
    Option("augment", str, "augmentations joined by + (default: the strategy's)"),
    Option("preparation", str, "preprocessing steps joined by + (default: none)"),
    Option("imbalance", str, f"how class imbalance is handled; {_SEE}"),
    Option("loss", str, f"training loss; {_SEE} (class-weighted: --imbalance class-weights)"),
    Option("label_smoothing", float, "share of each label that is spread over all classes", 0, below=1),
    Option("optimizer", str, f"optimizer; {_SEE}"),
    Option("schedule", str, f"learning rate schedule; {_SEE}"),
    Option("epochs", int, "passes over the labeled images", 1),
    Option("min_steps", int, "minimum number of steps, however few images there are", 0),
    Option("batch_size", int, "images per step", 1),
    Option("lr", float, "peak learning rate", 0, above=True),
    Option("weight_decay", float, "weight decay of the optimizer", 0),
    Option("clip", float, "norm at which gradients are clipped", 0, above=True),
    Option("average", float, "decay per step of the moving average of the weights; 0 for no average", 0, below=1),
    Option("patience", int, "epochs without a lower held-out loss until a fold stops; 0 for no early stopping", 0),
    Option("folds", int, "folds of the cross-validation inside the subset; 1 for none", 1),
    Option("views", int, "augmented views per image for the head of a frozen encoder", 0),
    Option(
        "scaling", str, "scaling of embeddings: unit (centered, of unit length) or standard (each feature by itself)",
        choices=("unit", "standard"),
    ),
    Option("strength", float, "inverse penalty of logistic regression; 0 chooses it out of fold", 0),
    Option("fold_ensemble", int, "1 averages the heads of the folds and the final head", 0, below=2),
    Option("mirror", int, "1 averages an image and its mirror image at test time", 0, below=2),
    Option(
        "tune", str, "parameters of the encoder that fine-tuning changes: layers, norm, bias or lora",
        choices=("layers", "norm", "bias", "lora"),
    ),
    Option("rank", int, "rank of the updates of --tune lora", 1),
    Option("frozen_below", float, "share of the rate below which a layer of the encoder stays frozen", 0, below=1),
    Option("layer_decay", float, "factor of the rate from each layer to the one before it", 0, above=True),
    Option("depth", int, "stages of the encoder, counted from the head, that are fine-tuned", 1),
    Option("thaw_every", int, "epochs between unfreezing one stage and the next; 0 trains all from the start", 0),
    Option("episodes", int, "tasks from other data sets for meta-learning", 1),
    Option("tasks", int, "tasks per step of the outer loop", 1),
    Option("shots", int, "images per class in a task's support set", 1),
    Option("queries", int, "images per class in a task's query set", 1),
    Option("inner_lr", float, "learning rate of the adaptation to a task", 0, above=True),
    Option("inner_steps", int, "steps of the adaptation to a task during meta-learning", 1),
    Option("adapt_steps", int, "steps of the adaptation to the subset itself", 1),
    Option("outer_lr", float, "peak learning rate of the outer loop", 0, above=True),
    Option(
        "order", str, "second, first (cheaper), or anil (adapts the head only)", choices=("second", "first", "anil")
    ),
    Option("side", int, "input size in pixels of a network from scratch (default: the model's own)", 32),
    Option("sources", str, "data sets that provide tasks, joined by + (default: all installed and unrelated)"),
)  # fmt: skip


def add_settings(parser: argparse.ArgumentParser, leave_out: Iterable[str] = ()) -> None:
    """Add a flag for every option, and one for a file of settings."""
    group = parser.add_argument_group("settings that differ from the strategy's defaults")
    for option in OPTIONS.values():
        if option.name not in leave_out:
            group.add_argument(option.flag, type=option.kind, default=None, help=option.meaning)
    group.add_argument("--settings", type=Path, metavar="FILE", help="a JSON file of settings; flags override it")


def stated_settings(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the options of the settings file and of the flags, which override it.

    Raises:
        BadRequest: if the file cannot be read, or a value in it is invalid.
        UnknownName: if the file names an unknown setting.
    """
    from_file = read_settings(arguments.settings) if arguments.settings else {}
    flags = {name: value for name in OPTIONS if (value := getattr(arguments, name, None)) not in (None, "")}
    return {**from_file, **flags}


def read_settings(path: Path) -> dict[str, Any]:
    """Read options from a JSON file: an object of them, or one with a key `settings`, as `tune` writes it."""
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise BadRequest(f"{path} cannot be read as a JSON file ({error}).") from None
    stated = content.get("settings", content) if isinstance(content, dict) else None
    if not isinstance(stated, dict):
        raise BadRequest(f"Expected {path} to hold a JSON object of settings, such as {{'lr': 0.001}}.")
    return checked(stated)


def checked(stated: Mapping[str, Any]) -> dict[str, Any]:
    """Return options with values of the right type; None and empty values are left out.

    Raises:
        UnknownName: if there is no such option.
        BadRequest: if a value is invalid.
    """
    return {name: OPTIONS[name].check(value) for name, value in stated.items() if value not in (None, "")}


def add_data(parser: argparse.ArgumentParser) -> None:
    """Add `--dataset` and `--folder`, which exclude each other."""
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--dataset", default="kermany", help="a data set's name (default: kermany)")
    add_folder(group)


def add_folder(group: argparse._MutuallyExclusiveGroup) -> None:
    """Add `--folder`."""
    group.add_argument(
        "--folder",
        type=Path,
        metavar="PATH",
        help="your own images: a folder of class folders, with or without train and test, or a CSV file",
    )


def requested_dataset(arguments: argparse.Namespace) -> DatasetSpec:
    """Return the data set that `--dataset` or `--folder` names."""
    return custom_dataset(arguments.folder) if arguments.folder else find_dataset(arguments.dataset)


def add_device(parser: argparse.ArgumentParser) -> None:
    """Add `--device`."""
    parser.add_argument("--device", choices=DEVICES, default="auto")


def add_training(parser: argparse.ArgumentParser) -> None:
    """Add the flags of every command that trains."""
    parser.add_argument(
        "--allow-leaks", action="store_true",
        help="train although copies or patients are in several parts; the run and every page will mention it",
    )  # fmt: skip
    add_device(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object per run")


def add_engine(parser: argparse.ArgumentParser) -> None:
    """Add the flags that choose where trainings run."""
    group = parser.add_argument_group("where trainings run")
    group.add_argument(
        "--engine", choices=("local", "ray"), default="local",
        help="local: here, one after the other; ray: as tasks of a Ray cluster, see docs/scaling.md",
    )  # fmt: skip
    group.add_argument(
        "--address", default="", metavar="HOST:PORT",
        help="a Ray cluster: HOST:PORT on one of its machines, ray://HOST:10001 from elsewhere (default: RAY_ADDRESS, "
        "or else a Ray of its own on this machine)",
    )  # fmt: skip
    group.add_argument(
        "--cpus-per-run", type=count, default=None, help="cores of each training on a cluster (default: 1)"
    )
    group.add_argument(
        "--gpus-per-run", type=share, default=None,
        help="GPUs of each training on a cluster, such as 0.25 for four at a time on one (default: 1 if it has any)",
    )  # fmt: skip


def add_external(parser: argparse.ArgumentParser) -> None:
    """Add `--external` and `--external-classes`."""
    parser.add_argument(
        "--external", action="append", default=[], metavar="NAME|PATH",
        help="an external test set on which every run is evaluated too: a data set's name, or your own images laid out "
        "as --folder takes them; may be given several times",
    )  # fmt: skip
    parser.add_argument(
        "--external-classes", type=pairs, default={}, metavar="THERE=HERE,...",
        help="which class of the external test set is which of the data set (default: those of the same name)",
    )  # fmt: skip
