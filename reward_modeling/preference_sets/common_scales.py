"""Whether the ratings of several sources may share a column, and what is known of its scale.

    scales = common_scales(entries)         # of the sources, as a manifest has them
    print("\n".join(scale_warnings(entries)))

A source says the scale of an attribute, or its scale is not known; then the ratings seen in it are all there is.
Ratings seen beyond a scale that another source says are on another scale. Ratings within it may be on that scale or
not: the scale of what is joined is not known then.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from reward_modeling.common.errors import UserError
from reward_modeling.common.file_names import MANIFEST
from reward_modeling.preference_sets.ratings import Scale, SourceRatings

Range = tuple[float, float]
NARROW = 0.5  # of a scale: ratings that take less of it are likely to be on another one
ROUNDING = 1e-6  # of a scale's width, by which a mean of ratings at its end may be beyond it


def common_scales(sources: Sequence[Mapping]) -> dict[str, Scale]:
    """The scale of each attribute, None where it is not known of every source that has ratings of it.

    Args:
        sources: the entries of a manifest, each with `name`, `options` and `attributes`.

    Raises:
        UserError: two sources have an attribute of one name on different scales.
    """
    found, problems = {}, []
    for name, entries in _by_attribute(sources).items():
        said = {_scale(entry) for _, entry in entries if entry["scale"]}
        unknown = [entry for _, entry in entries if not entry["scale"] and entry["rated"]]
        if len(said) > 1 or any(beyond(np.array(_seen(entry)), scale).any() for entry in unknown for scale in said):
            problems.append(_differing(name, entries))
        found[name] = None if unknown else next(iter(said), None)
    if problems:
        raise UserError("\n".join(problems))
    return found


def scale_warnings(sources: Sequence[Mapping]) -> list[str]:
    """A line for each attribute whose scale some of its sources say and others do not."""
    lines = []
    for name, entries in _by_attribute(sources).items():
        said = [(source, entry) for source, entry in entries if entry["scale"]]
        unknown = [(source, entry) for source, entry in entries if not entry["scale"] and entry["rated"]]
        if not said or not unknown:
            continue
        known = f"{scale_text(_scale(said[0][1]))} in {', '.join(source['name'] for source, _ in said)}"
        others = ", ".join(f"{source['name']} (ratings from {scale_text(_seen(entry))})" for source, entry in unknown)
        line = f"WARNING: {name}: the scale is {known}, and not known of {others}. So that of the mixture is not known."
        scale = _scale(said[0][1])
        if narrow := [source["name"] for source, entry in unknown if is_narrow(_seen(entry), scale)]:
            line += (
                f" Ratings of {', '.join(narrow)} take less than half of {scale_text(scale)}: they look like ratings "
                f"on another scale. If they are, keep them apart{_cure(name, entries)}."
            )
        lines.append(line)
    return lines


def check_on_scales(ratings: SourceRatings) -> None:
    """
    Raises:
        UserError: ratings are beyond the scale that is said of their attribute.
    """
    problems = []
    for name, column in zip(ratings.attributes, ratings.values.T, strict=True):
        known, scale = column[~np.isnan(column)], ratings.scales[name]
        if scale is not None and beyond(known, scale).any():
            problems.append(
                f"{ratings.source.name}: {name}: expected ratings from {scale_text(scale)}, the scale that {MANIFEST} "
                f"says, found {scale_text((known.min(), known.max()))}. Write the folder anew."
            )
    if problems:
        raise UserError("\n".join(problems))


def beyond(ratings: NDArray[np.float64], scale: Range) -> NDArray[np.bool_]:
    """Which ratings are beyond a scale."""
    slack = ROUNDING * (scale[1] - scale[0])
    return (ratings < scale[0] - slack) | (ratings > scale[1] + slack)


def is_narrow(seen: Range, scale: Range) -> bool:
    """Whether ratings that differ take so little of a scale that they look like ratings on another one."""
    return 0 < seen[1] - seen[0] < NARROW * (scale[1] - scale[0])


def _by_attribute(sources: Sequence[Mapping]) -> dict[str, list[tuple[Mapping, Mapping]]]:
    """Name -> the sources that have it, each with its entry of the attribute."""
    found: dict[str, list[tuple[Mapping, Mapping]]] = {}
    for source in sources:
        for name, entry in source["attributes"].items():
            found.setdefault(name, []).append((source, entry))
    return found


def _scale(entry: Mapping) -> Range:
    low, high = entry["scale"]
    return float(low), float(high)


def _seen(entry: Mapping) -> Range:
    return entry["low"], entry["high"]


def scale_text(ends: Range) -> str:
    """As in messages: 0 to 4."""
    return f"{ends[0]:g} to {ends[1]:g}"


def _differing(name: str, entries: Sequence[tuple[Mapping, Mapping]]) -> str:
    """What to say of an attribute of which the scales differ: each source with its scale, or with what is seen."""
    said: dict[Range, list[str]] = {}
    for source, entry in entries:
        if entry["scale"]:
            said.setdefault(_scale(entry), []).append(source["name"])
    found = [f"{scale_text(scale)} in {', '.join(names)}" for scale, names in said.items()]
    found += [
        f"ratings from {scale_text(_seen(entry))} in {source['name']}, whose scale is not known"
        for source, entry in entries
        if not entry["scale"] and entry["rated"]
    ]
    return f"{name}: expected one scale in all sources, found {' and '.join(found)}. Keep them apart" + _cure(
        name, entries
    )


def _cure(name: str, entries: Sequence[tuple[Mapping, Mapping]]) -> str:
    """The end of "Keep them apart": another prefix for the last source that takes one."""
    able = [source for source, _ in entries if "attribute_prefix" in source["options"]]
    if not able:
        return ": make a mixture of each"
    source, label = able[-1], able[-1]["name"]
    prefix = f"{label}-" if source["options"]["attribute_prefix"] != f"{label}-" else f"own-{label}-"
    return f", as in the options of {label}: {{attribute_prefix: {prefix}}}"
