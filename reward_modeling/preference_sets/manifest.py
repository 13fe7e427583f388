"""What is in a folder of rows: counts per source, where they come from, and what makes them the same again.

What that of ratings has more stands in `rated_manifest.py`. A manifest holds neither a date nor a path of output: the
same sources and arguments give the same bytes.
"""

import json
from collections.abc import Mapping, Sequence
from functools import partial
from hashlib import sha256
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from reward_modeling.common.file_names import MANIFEST
from reward_modeling.common.launch import installed_versions
from reward_modeling.data.labels import LABELS
from reward_modeling.data.preferences import read_column
from reward_modeling.data.report import DataReport, DropReason, first_row
from reward_modeling.display.text import Rows, align
from reward_modeling.preference_sets.label_counts import in_words, label_counts
from reward_modeling.preference_sets.pair_table import NUMBERS
from reward_modeling.preference_sets.source import SourcePairs, SourceRows, number_column

PACKAGES = ("datasets", "numpy", "pyarrow")  # those that could make other bytes of the same rows


def source_entry(pairs: SourcePairs, published: Mapping[str, int]) -> dict[str, object]:
    """What a manifest says of one source, as it was read.

    Args:
        published: mixture -> number of pairs, as others have counted them.
    """
    counts = row_counts(number_column(pairs.rows, "prompt_key"))
    return {
        **read_entry(pairs, fingerprint(pairs)),
        **counts,
        "labels": label_counts(partial(read_column, pairs.rows)),
        "published": {
            mixture: {"pairs": number, "difference": counts["pairs"] - number} for mixture, number in published.items()
        },
    }


def read_entry(found: SourceRows, fingerprint: str) -> dict[str, object]:
    """Where the rows of a source come from, and what was read of it."""
    return {
        "name": found.source.name,
        "licence": found.source.licence,
        "dataset_path": found.options["dataset_path"],
        "split": found.options["split"],
        "revision": found.options["revision"],
        "fingerprint": fingerprint,
        "options": dict(found.options),
        "read": {
            "rows": found.report.rows_read,
            "kept": found.report.kept,
            "dropped": dropped_entry(found.report),
            "notes": dict(found.report.notes),
        },
    }


def dropped_entry(report: DataReport) -> dict[str, dict[str, object]]:
    """Rows dropped per reason, with the first such row."""
    return {
        reason: {"rows": rows.count, "first": rows.first_where, "excerpt": rows.first_excerpt}
        for reason, rows in sorted(report.dropped.items())
    }


def fingerprint(pairs: SourcePairs) -> str:
    """sha256 of the rows' keys, scores and labels, sorted: the same for the same rows in any file and in any order."""
    columns = {name: number_column(pairs.rows, name) for name in ("pair_key", *NUMBERS)}
    # A set without a label has the fingerprint that it had before there were any.
    columns = {name: values for name, values in columns.items() if name not in LABELS or not np.isnan(values).all()}
    order = np.lexsort([*columns.values()][::-1])
    digest = sha256()
    for name, values in columns.items():
        digest.update(name.encode() if name in LABELS else b"")
        little = np.ascontiguousarray(values[order], dtype=values.dtype.newbyteorder("<"))
        # Every missing score is the same NaN.
        digest.update((np.where(np.isnan(little), np.nan, little) if little.dtype.kind == "f" else little).tobytes())
    return digest.hexdigest()


def row_counts(prompt_keys: NDArray[np.int64], unit: str = "pairs") -> dict[str, object]:
    """How many rows and prompts there are, and for each number of rows how many prompts have so many.

    A list of ranked answers counts as a pair: it is one record.
    """
    prompts, counts = np.unique(prompt_keys, return_counts=True)
    sizes, numbers = (values.tolist() for values in np.unique(counts, return_counts=True))
    per_prompt = {str(size): number for size, number in zip(sizes, numbers, strict=True)}
    return {unit: len(prompt_keys), "prompts": len(prompts), f"{unit}_per_prompt": per_prompt}


def write_manifest(
    manifest: dict[str, object], written: Mapping[str, Mapping], file_format: str, folder: Path, unit: str = "pairs"
) -> dict[str, object]:
    """Add to a manifest what `write_rows` wrote of each split, put it beside the data, and return it."""
    total = sum(part[unit] for part in written.values())
    whole = manifest | {unit: total, "format": file_format, "written": written}
    text = json.dumps({**whole, "versions": installed_versions(PACKAGES)}, indent=2, ensure_ascii=False)
    (folder / MANIFEST).write_text(f"{text}\n", encoding="utf-8")
    return whole


# --- on the screen --------------------------------------------------------------------------------------------


def manifest_table(manifest: Mapping[str, object], unit: str = "pairs") -> str:
    """The numbers of a manifest: a line for each source, then why rows of it and of the mixture were dropped."""
    sources = manifest["sources"]
    lines = [f"{manifest['name']}: {manifest[unit]:,} {unit}", *align(_source_rows(sources, unit))]
    for source in sources:
        name = source["name"]
        stages = {"rows": source["read"]["dropped"], unit: source.get("mixed", {"dropped": {}})["dropped"]}
        for what, dropped in stages.items():
            if dropped:
                lines += [f"{name}: {what} dropped because", *align(_reason_rows(dropped), words=(0, 2))]
        notes = [f"{note} {count:,}" for note, count in source["read"]["notes"].items() if note not in source]
        if labels := source.get("mixed", source)["labels"]:
            lines.append(f"{name}: {in_words(labels)}")
        if notes:
            lines.append(f"{name}: {', '.join(notes)}")
    for split, written in manifest["written"].items():
        lines.append(f"{split}: {written[unit]:,} {unit}, sha256 of the content {written['content_sha256']}")
    return "\n".join(lines)


def _source_rows(sources: Sequence[Mapping], unit: str) -> Rows:
    """A line for each source, and for all sources of a mixture."""
    mixtures = list(dict.fromkeys(mixture for source in sources for mixture in source["published"]))
    is_mixed = any("mixed" in source for source in sources)
    head = ["source", "rows read", "rows kept", unit, "prompts"]
    head += [f"published in {mixture}" for mixture in mixtures] + ["in the mixture"] * is_mixed
    parts = [(source["name"], [source]) for source in sources]
    parts += [("all", sources)] * (is_mixed and len(sources) > 1)
    rows = [head]
    for name, part in parts:
        counts = [sum(source["read"][key] for source in part) for key in ("rows", "kept")]
        row = [name, *(f"{count:,}" for count in (*counts, sum(source[unit] for source in part)))]
        row.append(f"{part[0]['prompts']:,}" if len(part) == 1 else "")  # not added up: one may be in several sources
        for mixture in mixtures:
            found = [source["published"][mixture] for source in part if mixture in source["published"]]
            pairs, difference = (sum(count[key] for count in found) for key in ("pairs", "difference"))
            row.append(f"{pairs:,} ({difference:+,})" if found else "-")
        if is_mixed:
            row.append(f"{sum(source['mixed'][unit] for source in part):,}")
        rows.append(row)
    return rows


def _reason_rows(dropped: Mapping) -> Rows:
    found = ((reason, dropped.get(reason.value)) for reason in DropReason)
    return [
        (reason.words, f"{rows['rows']:,}", first_row(rows["first"], rows["excerpt"])) for reason, rows in found if rows
    ]
