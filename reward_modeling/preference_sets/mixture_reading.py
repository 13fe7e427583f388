"""The sources of a mixture, read: what kind of rows they have, and these rows.

kind = row_kind(mixture, paths)             # pairs or ratings, before anything is read
found = read_source(source, seed=0, path=None, num_proc=2)
"""

from collections.abc import Mapping
from functools import partial

import numpy as np

from reward_modeling.common.errors import UserError, did_you_mean
from reward_modeling.data.preferences import read_column
from reward_modeling.data.rated_rows import OF_RATINGS
from reward_modeling.data.row_notes import unread_counts
from reward_modeling.data.sources import PREFERENCE_COLUMNS
from reward_modeling.preference_sets.arguments import (
    RATINGS,
    FileArguments,
    SourceArguments,
    attribute_names,
    script_module,
    source_arguments,
)
from reward_modeling.preference_sets.common_scales import check_on_scales
from reward_modeling.preference_sets.mixture import Mixture, MixtureSource
from reward_modeling.preference_sets.rated_manifest import written_scales
from reward_modeling.preference_sets.ratings import Scale, SourceRatings, read_rated_file
from reward_modeling.preference_sets.source import PreferenceSource, SourcePairs, read_file


def row_kind(mixture: Mixture, paths: Mapping[str, str]) -> str:
    """Whether the sources of a mixture have pairs or ratings.

    Args:
        paths: local copies, by the names of sources.

    Raises:
        UserError: some have these and some those.
    """
    named: dict[str, list[str]] = {}
    for source in mixture.sources:
        arguments = _arguments_of(source, mixture.seed, paths.get(source.label))
        is_rated = source.script is None and file_scales(arguments) is not None
        if isinstance(arguments, FileArguments) and arguments.attribute_prefix and not is_rated:
            raise UserError(f"{source.label}: attribute_prefix: expected with ratings, found pairs. Leave it out.")
        named.setdefault(RATINGS if is_rated else arguments.row_kind, []).append(source.label)
    if len(named) > 1:
        found = " and ".join(f"{kind} of {', '.join(labels)}" for kind, labels in named.items())
        raise UserError(
            f"{mixture.name}: expected either pairs, which rm.py reads, or ratings, which rm_regression.py reads, "
            f"found {found}. Make two mixtures, or write ratings where a script can: options: {{rows: ratings}}"
        )
    return next(iter(named))


def file_scales(arguments: FileArguments) -> dict[str, Scale] | None:
    """The attributes of a file of ratings with their scales, as its options or its manifest say; None: of pairs."""
    written = written_scales(arguments.dataset_path)
    if arguments.attributes is None:
        return written
    return {name: (written or {}).get(name) for name in attribute_names(arguments.attributes)}


def _arguments_of(source: MixtureSource, seed: int, path: str | None) -> SourceArguments:
    options = {"seed": seed, **source.options}
    if path or source.path:
        options["dataset_path"] = path or source.path
    return source_arguments(source.script, options)


def read_source(
    source: MixtureSource, seed: int, path: str | None, num_proc: int | None
) -> SourcePairs | SourceRatings:
    """The pairs or ratings of a source.

    Args:
        seed: of its random choices, unless its options have one.
        path: a local copy to read instead.

    Raises:
        UserError: nothing readable there.
    """
    arguments = _arguments_of(source, seed, path)
    arguments.num_proc = num_proc
    try:
        if source.script is not None:
            return script_module(source.script).build(arguments)
        of_file = PreferenceSource(source.label, PREFERENCE_COLUMNS, licence="not known")
        scales = file_scales(arguments)
        return read_file(arguments, of_file) if scales is None else _read_ratings(arguments, of_file, scales)
    except UserError as error:
        hint = f"A local copy is passed as --source_paths {source.label}=PATH."
        if source.script is None and "expected columns chosen and rejected" in str(error):
            hint += " Of rows of ratings name the columns: options: {attributes: NAME}"
        raise UserError(str(error).replace("The flag for the path is --dataset_path.", hint)) from error


def _read_ratings(arguments: FileArguments, source: PreferenceSource, scales: Mapping[str, Scale]) -> SourceRatings:
    """The ratings of a file.

    Raises:
        UserError: as `read_rated_file`; no row has a rating of an attribute that the options name; or ratings are not
            on the scales that its manifest says.
    """
    ratings = read_rated_file(arguments, source, scales)
    if arguments.attributes is not None:
        _check_rated(ratings, tuple(scales))
    check_on_scales(ratings)
    return ratings


def _check_rated(ratings: SourceRatings, names: tuple[str, ...]) -> None:
    """
    Args:
        names: of the attributes, as the file has them.

    Raises:
        UserError: no row has a rating of one of them.
    """
    missing = [name for name, column in zip(names, ratings.values.T, strict=True) if np.isnan(column).all()]
    if not missing:
        return
    others = [name.removeprefix(OF_RATINGS) for name in unread_counts(partial(read_column, ratings.rows))]
    close = did_you_mean(missing[0], others) or "."
    found = f" Columns that are not read: {', '.join(others)}." if others else ""
    raise UserError(
        f"{ratings.source.name}: attributes: expected ratings of each, found none of {', '.join(missing)}{close}{found}"
        f" Leave them out, or name the columns that the rows have.\n{ratings.report.table()}"
    )
