"""Check whether a medical encoder was trained on the images of a data set.

For registered data sets the encoder's card has the result of the audit before pretraining. A user's own images are
compared with the corpus here, as far as the corpus is installed.
"""

from core.data.dataset import Dataset
from core.errors import LeakFound
from core.models.medical_encoders import copies_in_corpus, find_medical_encoder, read_card
from core.models.specs import Weights
from trainer.progress import progress_bar


def count_seen_images(dataset: Dataset, weights: Weights) -> tuple[int, tuple[str, ...]]:
    """Return how many images of a user's folder or table the encoder was trained on, and notes for the record.

    Raises:
        LeakFound: if there are any and leaks are not allowed.
    """
    if weights.kind != "own" or dataset.spec.path is None:
        return 0, ()
    card = read_card(find_medical_encoder(weights.ref.split("/")[0], dataset.spec.name))
    seen, absent = copies_in_corpus(dataset.spec, card, progress_bar)
    if seen and not dataset.leaks_allowed:
        raise LeakFound(
            f"{len(seen)} of these images, for example {dataset.listing.ids[min(seen)]}, are copies of images that the "
            "medical encoder was trained on. Remove them, leave out the medical models, or add --allow-leaks; the "
            "results will mention it."
        )
    notes = [f"LEAKS ALLOWED: the medical encoder learned from {len(seen)} of these images."] if seen else []
    if absent:
        notes.append("Nobody has compared these images with all those that the medical encoder learned from.")
    return len(seen), tuple(notes)
