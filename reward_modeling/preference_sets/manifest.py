"""What is in a folder of pairs: counts per source, where they come from, and what makes them the same again.

A manifest holds neither a date nor a path of output: the same sources and arguments give the same bytes.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from hashlib import sha256

import numpy as np
from numpy.typing import NDArray

from reward_modeling.common.launch import installed_versions
from reward_modeling.data.report import DataReport, DropReason, first_row
from reward_modeling.display.text import Rows, align
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
    lines = [f"{manifest['name']}: {manifest['pairs']:,} pairs", *align(_source_rows(sources))]
    for source in sources:
        name = source["name"]
        stages = {"rows": source["read"]["dropped"], "pairs": source.get("mixed", {"dropped": {}})["dropped"]}
        for unit, dropped in stages.items():
            if dropped:
                lines += [f"{name}: {unit} dropped because", *align(_reason_rows(dropped), words=(0, 2))]
        notes = [f"{note} {count:,}" for note, count in source["read"]["notes"].items() if note not in source]
        if notes:
            lines.append(f"{name}: {', '.join(notes)}")
    for split, written in manifest["written"].items():
        lines.append(f"{split}: {written['pairs']:,} pairs, sha256 of the content {written['content_sha256']}")
    return "\n".join(lines)


def _source_rows(sources: Sequence[Mapping]) -> Rows:
    """A line for each source, and for all sources of a mixture."""
    mixtures = list(dict.fromkeys(mixture for source in sources for mixture in source["published"]))
    is_mixed = any("mixed" in source for source in sources)
    head = ["source", "rows read", "rows kept", "pairs", "prompts"]
    head += [f"published in {mixture}" for mixture in mixtures] + ["in the mixture"] * is_mixed
    parts = [(source["name"], [source]) for source in sources]
    parts += [("all", sources)] * (is_mixed and len(sources) > 1)
    return [head, *([name, *_totals(part, mixtures, is_mixed)] for name, part in parts)]


def _totals(sources: Sequence[Mapping], mixtures: Sequence[str], is_mixed: bool) -> Iterator[str]:
    for counts in ([source["read"]["rows"] for source in sources], [source["read"]["kept"] for source in sources]):
        yield f"{sum(counts):,}"
    yield f"{sum(source['pairs'] for source in sources):,}"
    yield f"{sources[0]['prompts']:,}" if len(sources) == 1 else ""  # not added up: one may be in several sources
    for mixture in mixtures:
        found = [source["published"][mixture] for source in sources if mixture in source["published"]]
        pairs, difference = (sum(count[name] for count in found) for name in ("pairs", "difference"))
        yield f"{pairs:,} ({difference:+,})" if found else "-"
    if is_mixed:
        yield f"{sum(source['mixed']['pairs'] for source in sources):,}"


def _reason_rows(dropped: Mapping) -> Rows:
    found = ((reason, dropped.get(reason.value)) for reason in DropReason)
    return [
        (reason.words, f"{rows['rows']:,}", first_row(rows["first"], rows["excerpt"])) for reason, rows in found if rows
    ]
