"""What is in a folder of pairs: counts per source, where they come from, and what makes them the same again.

A manifest holds neither a date nor a path of output: the same sources and arguments give the same bytes.
"""

import json
from collections.abc import Mapping
from hashlib import sha256

import numpy as np
from numpy.typing import NDArray

from reward_modeling.common.versions import installed_versions
from reward_modeling.data.report import DataReport, DropReason, first_row
from reward_modeling.display.text import align
from reward_modeling.preference_sets.pair_table import SCORES
from reward_modeling.preference_sets.source import SourcePairs, number_column

PACKAGES = ("datasets", "numpy", "pyarrow")  # those that could make other bytes of the same rows


def source_entry(pairs: SourcePairs, published: Mapping[str, int]) -> dict[str, object]:
    """What a manifest says of one source, as it was read.

    Args:
        published: mixture -> number of pairs, as others have counted them.
    """
    count = len(pairs.rows)
    return {
        "name": pairs.source.name,
        "licence": pairs.source.licence,
        "dataset_path": pairs.options["dataset_path"],
        "split": pairs.options["split"],
        "revision": pairs.options["revision"],
        "fingerprint": fingerprint(pairs),
        "options": dict(pairs.options),
        "read": report_entry(pairs.report),
        "pairs": count,
        "prompts": len(np.unique(number_column(pairs.rows, "prompt_key"))),
        "pairs_per_prompt": pairs_per_prompt(number_column(pairs.rows, "prompt_key")),
        "published": {
            mixture: {"pairs": number, "difference": count - number} for mixture, number in published.items()
        },
    }


def mixed_entry(prompt_keys: NDArray[np.int64], report: DataReport) -> dict[str, object]:
    """What a manifest says of one source's pairs in a mixture, `(pairs,)`, and of those left out of it."""
    return {
        "dropped": dropped_entry(report),
        "pairs": len(prompt_keys),
        "prompts": len(np.unique(prompt_keys)),
        "pairs_per_prompt": pairs_per_prompt(prompt_keys),
    }


def report_entry(report: DataReport) -> dict[str, object]:
    """Rows read, kept, and dropped per reason with the first such row."""
    return {
        "rows": report.rows_read,
        "kept": report.kept,
        "dropped": dropped_entry(report),
        "notes": dict(report.notes),
    }


def dropped_entry(report: DataReport) -> dict[str, dict[str, object]]:
    return {
        reason: {"rows": rows.count, "first": rows.first_where, "excerpt": rows.first_excerpt}
        for reason, rows in sorted(report.dropped.items())
    }


def fingerprint(pairs: SourcePairs) -> str:
    """sha256 of the pairs' keys and scores, sorted: the same for the same pairs in any file and in any order."""
    columns = [number_column(pairs.rows, name) for name in ("pair_key", *SCORES)]
    order = np.lexsort(columns[::-1])
    digest = sha256()
    for values in columns:
        little = np.ascontiguousarray(values[order], dtype=values.dtype.newbyteorder("<"))
        # Every missing score is the same NaN.
        digest.update((np.where(np.isnan(little), np.nan, little) if little.dtype.kind == "f" else little).tobytes())
    return digest.hexdigest()


def pairs_per_prompt(prompt_keys: NDArray[np.int64]) -> dict[str, int]:
    """Number of pairs -> number of prompts that have so many."""
    _, counts = np.unique(prompt_keys, return_counts=True)
    sizes, prompts = np.unique(counts, return_counts=True)
    return {str(size): int(number) for size, number in zip(sizes, prompts, strict=True)}


def manifest_text(manifest: Mapping[str, object]) -> str:
    return json.dumps({**manifest, "versions": installed_versions(PACKAGES)}, indent=2, ensure_ascii=False) + "\n"


# --- on the screen --------------------------------------------------------------------------------------------


def manifest_table(manifest: Mapping[str, object]) -> str:
    """The numbers of a manifest: a line for each source, then why rows and pairs were dropped."""
    sources = manifest["sources"]
    lines = [f"{manifest['name']}: {manifest['pairs']:,} pairs", *align(_source_cells(manifest))]
    for source in sources:
        name = source["name"]
        stages = {"rows": source["read"]["dropped"], "pairs": source.get("mixed", {"dropped": {}})["dropped"]}
        for unit, dropped in stages.items():
            if dropped:
                lines.append(f"{name}: {unit} dropped because")
                lines += align(_reason_cells(dropped), words=(0, 2))
        notes = [f"{note} {count:,}" for note, count in source["read"]["notes"].items() if note not in source]
        if notes:
            lines.append(f"{name}: {', '.join(notes)}")
    for split, written in manifest["written"].items():
        lines.append(f"{split}: {written['pairs']:,} pairs, sha256 of the content {written['content_sha256']}")
    return "\n".join(lines)


def _source_cells(manifest: Mapping) -> list[list[str]]:
    sources = manifest["sources"]
    mixtures = list(dict.fromkeys(mixture for source in sources for mixture in source["published"]))
    is_mixed = any("mixed" in source for source in sources)
    cells = [["source", "rows read", "rows kept", "pairs", "prompts"]]
    cells[0] += [f"published in {mixture}" for mixture in mixtures] + ["in the mixture"] * is_mixed
    for source in sources:
        read = source["read"]
        line = [source["name"], *(f"{count:,}" for count in (read["rows"], read["kept"]))]
        line += [f"{source['pairs']:,}", f"{source['prompts']:,}"]
        for mixture in mixtures:
            found = source["published"].get(mixture)
            line.append("-" if found is None else f"{found['pairs']:,} ({found['difference']:+,})")
        cells.append(line + ([f"{source['mixed']['pairs']:,}"] if is_mixed else []))
    if is_mixed and len(sources) > 1:
        cells.append(_total_cells(sources, mixtures))
    return cells


def _total_cells(sources: list[Mapping], mixtures: list[str]) -> list[str]:
    """Prompts are not added up: one may be in several sources."""
    rows = [sum(source["read"][name] for source in sources) for name in ("rows", "kept")]
    line = ["all", *(f"{count:,}" for count in rows), f"{sum(source['pairs'] for source in sources):,}", ""]
    for mixture in mixtures:
        found = [source["published"][mixture] for source in sources if mixture in source["published"]]
        total, difference = (sum(one[name] for one in found) for name in ("pairs", "difference"))
        line.append(f"{total:,} ({difference:+,})")
    return [*line, f"{sum(source['mixed']['pairs'] for source in sources):,}"]


def _reason_cells(dropped: Mapping) -> list[list[str]]:
    found = ((reason, dropped.get(reason.value)) for reason in DropReason)
    return [
        [reason.words, f"{rows['rows']:,}", first_row(rows["first"], rows["excerpt"])] for reason, rows in found if rows
    ]
