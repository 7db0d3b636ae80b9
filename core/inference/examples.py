"""Example images that ship with the program: real images whose license allows it, with their credits.

Each folder below `examples/` holds images and a `credits.json`:

- `tasks`: names of the data sets whose networks the images are for
- `credit`: author, year and license in a few words, shown below each image
- `author`, `licence`, `source`: in full, the source as an address
- `note`: what a reader should know, such as whether a network was trained on the images
- `images`: file name -> the publisher's label

A new example is an image file and its line in `images`.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from core.data.uploads import Upload
from core.errors import DataUnavailable
from core.paths import PROJECT

FOLDER, CREDITS = PROJECT / "examples", "credits.json"
_TEXTS = ("credit", "author", "licence", "source", "note")


@dataclass(frozen=True)
class Example:
    """An example image.

    Attributes:
        path: path of the image file.
        label: the publisher's label, as inside a sentence.
        credit: author, year and license in a few words.
        note: what a reader should know; "" for nothing.
    """

    path: Path
    label: str
    credit: str
    note: str

    @property
    def caption(self) -> str:
        """Credit, label and note, shown below the image."""
        return f"{self.credit}. Labeled as {self.label}. {self.note}".strip()

    def upload(self, title: str) -> Upload:
        """Return the image as if it had been uploaded under a name."""
        return Upload(title, self.path.read_bytes())


def examples_of(task: str, folder: Path = FOLDER) -> list[Example]:
    """Return the example images for a task.

    Args:
        task: name of the data set.
        folder: folder with one subfolder per source.
    Raises:
        DataUnavailable: if credits cannot be read, or an image that they name is missing.
    """
    examples = []
    for path in sorted(folder.glob(f"*/{CREDITS}")):
        try:
            credits = json.loads(path.read_text(encoding="utf-8"))
            if not isinstance(credits["tasks"], list) or not all(isinstance(credits[name], str) for name in _TEXTS):
                raise TypeError
            images = dict(credits["images"])
        except (OSError, ValueError, KeyError, TypeError):
            raise DataUnavailable(
                f"{path.parent.name}/{CREDITS} cannot be read. Expected tasks, {', '.join(_TEXTS)} and images."
            ) from None
        if task not in credits["tasks"]:
            continue
        for name, label in images.items():
            if not (path.parent / name).is_file():
                raise DataUnavailable(
                    f"{path.parent.name}/{CREDITS} names {name}, which is missing. Add it or remove the line."
                )
            examples.append(Example(path.parent / name, label, credits["credit"], credits["note"]))
    return examples
