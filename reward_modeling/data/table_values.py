"""Values of tables as their rows had them before Arrow: without the keys of other rows, and without decoded pictures.

Arrow gives every object of a column the keys of all: a tool call would have the arguments of every other tool, as null,
and a chat template writes them down.
"""

from dataclasses import replace

from datasets import Audio, Dataset, Image, Video


def without_decoding(table: Dataset) -> Dataset:
    """The table with pictures and sounds as bytes: nobody reads them here."""
    for name, feature in table.features.items():
        if isinstance(feature, Audio | Image | Video) and feature.decode:
            table = table.cast_column(name, replace(feature, decode=False))
    return table


def deep_columns(table: Dataset) -> frozenset[str]:
    """The columns with objects inside objects, as calls of tools are; in others, a null key does no harm."""
    return frozenset(name for name, feature in table.features.items() if _levels(feature) > 1)


def _levels(feature: object) -> int:
    """Objects inside each other."""
    if isinstance(feature, dict):
        return 1 + max(map(_levels, feature.values()), default=0)
    inner = feature[0] if isinstance(feature, list) else vars(feature).get("feature")
    return 0 if inner is None else _levels(inner)


def without_null_keys(value: object) -> object:
    """A value without the keys of its objects that are null."""
    if isinstance(value, dict):
        return {key: without_null_keys(one) for key, one in value.items() if one is not None}
    return [without_null_keys(one) for one in value] if isinstance(value, list) else value
