"""Distance of the peak of a heatmap from evidence at a known place."""

import numpy as np


def peak_distance(explanation, evidence):
    """How far a heatmap's peak lies from the evidence, as a share of the side; 0 inside it.

    Args:
        explanation: a heatmap that is not flat.
        evidence: (H, H) bool, True where it is; somewhere at least.
    """
    row, column = np.unravel_index(int(explanation.heat.argmax()), explanation.heat.shape)
    there = (np.argwhere(evidence) + 0.5) / evidence.shape[0]
    peak = np.array([(row + 0.5) / explanation.heat.shape[0], (column + 0.5) / explanation.heat.shape[1]])
    half_pixel = 0.5 / evidence.shape[0]
    return float(np.linalg.norm(np.maximum(np.abs(there - peak) - half_pixel, 0), axis=1).min())
