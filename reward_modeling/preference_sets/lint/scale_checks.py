"""Ratings against the scales that the manifest of their folder says."""

from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from reward_modeling.common.file_names import MANIFEST
from reward_modeling.preference_sets.common_scales import beyond, is_narrow, scale_text
from reward_modeling.preference_sets.ratings import Scale

OFF_SCALE, NARROW = "off_scale", "narrow"


def scale_entry(ratings: NDArray[np.float64], scale: Scale) -> dict[str, object]:
    """The scale, None where none is said, and how many ratings are beyond it.

    Args:
        ratings: `(ratings,)` of one attribute, without NaN.
    """
    if scale is None:
        return {"scale": None, "off_scale": 0}
    return {"scale": list(scale), "off_scale": int(beyond(ratings, scale).sum())}


def scale_findings(name: str, entry: Mapping) -> Iterator[tuple[str, float, str, None]]:
    """Of each check its figure, and what to say where it is above a limit."""
    if entry["scale"] is None or not entry["rated"]:
        return
    scale, seen = tuple(entry["scale"]), (entry["low"], entry["high"])
    said = f"{scale_text(scale)}, the scale that {MANIFEST} says"
    found = f"{entry['off_scale']:,} of {entry['rated']:,} ratings of {name}"
    message = f"{found} are beyond {said}: they go from {scale_text(seen)}. Write the folder anew."
    yield OFF_SCALE, entry["off_scale"] / entry["rated"], message, None
    if is_narrow(seen, scale):
        unused = 1 - (seen[1] - seen[0]) / (scale[1] - scale[0])
        message = f"Ratings of {name} go from {scale_text(seen)}, which is less than half of {said}."
        yield NARROW, unused, message, None
