"""Small folders of generated images in the publishers' layouts."""

import numpy as np
from PIL import Image

from core.data.datasets.phantom import make_phantom


def put_image(path, seed, side=60, tint=0):
    """A phantom of class `tint`, which is brighter the higher it is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.clip(make_phantom(seed, tint).pixels.astype(int) + 40 * tint, 0, 255).astype(np.uint8)
    Image.fromarray(pixels).resize((side, side)).save(path)


def put_nih(root, seeds_and_patients):
    """NIH ChestX-ray14's layout: the image of an odd seed shows a mass."""
    rows = ["Image Index,Finding Labels,Patient ID"]
    for seed, patient in seeds_and_patients:
        put_image(root / "images" / f"{seed}.png", seed, 224)
        rows.append(f"{seed}.png,{'Mass' if seed % 2 else 'No Finding'},{patient}")
    (root / "Data_Entry_2017.csv").write_text("\n".join(rows))
