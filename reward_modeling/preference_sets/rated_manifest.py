"""What the manifest of a folder of ratings has beside that of pairs: what each attribute's ratings are."""

import json
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from reward_modeling.common.errors import UserError
from reward_modeling.common.file_names import MANIFEST
from reward_modeling.data.json_lines import FILE_ERRORS
from reward_modeling.display.text import Rows, align
from reward_modeling.preference_sets.arguments import RATINGS
from reward_modeling.preference_sets.common_scales import scale_warnings
from reward_modeling.preference_sets.manifest import manifest_table, read_entry, row_counts
from reward_modeling.preference_sets.ratings import Scale, SourceRatings
from reward_modeling.preference_sets.source import number_column

UNIT = "answers"
DIGITS = 6  # of a mean: the last ones depend on the order in which it was added up


def rated_source_entry(ratings: SourceRatings) -> dict[str, object]:
    """What a manifest says of one source, as it was read."""
    return {
        **read_entry(ratings, fingerprint(ratings)),
        **row_counts(number_column(ratings.rows, "prompt_key"), UNIT),
        "attributes": attribute_entries(ratings.attributes, ratings.values, ratings.scales),
        "labels": {},
        "published": {},
    }


def attribute_entries(
    attributes: Sequence[str], values: NDArray[np.float64], scales: Mapping[str, Scale]
) -> dict[str, dict[str, object]]:
    """Of each attribute how many answers are rated on it, from what to what, their mean, and the scale if one is known.

    Args:
        values: `(answers, attributes)`, NaN where not rated.
    """
    entries = {}
    for name, column in zip(attributes, values.T, strict=True):
        known = column[~np.isnan(column)]
        low, high, mean = (known.min(), known.max(), known.mean()) if len(known) else (None, None, None)
        figures = {"low": low, "high": high, "mean": None if mean is None else round(mean, DIGITS)}
        figures = {key: None if figure is None else float(figure) for key, figure in figures.items()}
        scale = scales[name]
        entries[name] = {"rated": len(known), **figures, "scale": None if scale is None else list(scale)}
    return entries


def fingerprint(ratings: SourceRatings) -> str:
    """sha256 of names, keys and ratings, sorted: the same for the same answers in any file and in any order."""
    keys = number_column(ratings.rows, "text_key").astype("<i8")
    digest = sha256("\n".join(ratings.attributes).encode())
    order = np.lexsort((*ratings.values.T[::-1], keys))
    digest.update(keys[order].tobytes())
    values = ratings.values[order]
    digest.update(np.where(np.isnan(values), np.nan, values).astype("<f8").tobytes())  # every missing one the same NaN
    return digest.hexdigest()


def written_scales(path: str) -> dict[str, Scale] | None:
    """The attributes of a folder of ratings that data_prep wrote, with their scales; None where it is none.

    Raises:
        UserError: its manifest cannot be read.
    """
    file = Path(path).expanduser() / MANIFEST
    if not file.is_file():
        return None
    try:
        manifest = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(manifest, dict) or manifest.get("rows") != RATINGS:
            return None
        scales = {name: entry["scale"] for name, entry in manifest["attributes"].items()}
        return {name: None if scale is None else (float(scale[0]), float(scale[1])) for name, scale in scales.items()}
    except (*FILE_ERRORS, KeyError, TypeError, AttributeError, ValueError) as error:
        raise UserError(f"{file}: expected what data_prep wrote, found it broken. Write the folder anew.") from error


# --- on the screen --------------------------------------------------------------------------------------------


def rated_manifest_table(manifest: Mapping[str, object]) -> str:
    """The numbers of a manifest, a line for each attribute, and warnings of scales that are not known."""
    lines = [manifest_table(manifest, UNIT)]
    for source in manifest["sources"]:
        noted = source.get("mixed", {"noted": {}})["noted"]
        lines += [f"{source['name']}: {words} {number:,}" for words, number in noted.items() if number]
    lines += _shared(manifest["sources"])
    table = align(attribute_rows(manifest["attributes"], manifest[UNIT]))
    return "\n".join([*lines, *table, *scale_warnings(manifest["sources"])])


def _shared(sources: Sequence[Mapping]) -> list[str]:
    """Of attributes that several sources have what their ratings are in each: they should be on one scale."""
    by_name: dict[str, list[str]] = {}
    for source in sources:
        for name, entry in source["attributes"].items():
            if entry["rated"]:
                known = "" if entry["scale"] else ", scale not known"
                seen = f"{source['name']} {entry['low']:g} to {entry['high']:g} (mean {entry['mean']:.3f}{known})"
                by_name.setdefault(name, []).append(seen)
    return [f"{name}: {', '.join(seen)}" for name, seen in by_name.items() if len(seen) > 1]


def attribute_rows(entries: Mapping[str, Mapping], answers: int) -> Rows:
    rows: Rows = [("attribute", "rated", "of all", "lowest", "highest", "mean", "scale")]
    for name, entry in entries.items():
        figures = ["-" if entry[key] is None else f"{entry[key]:g}" for key in ("low", "high")]
        mean = "-" if entry["mean"] is None else f"{entry['mean']:.3f}"
        scale = "not known" if entry["scale"] is None else f"{entry['scale'][0]:g} to {entry['scale'][1]:g}"
        rows.append((name, f"{entry['rated']:,}", f"{entry['rated'] / max(answers, 1):.1%}", *figures, mean, scale))
    return rows
