"""What users of a model of ratings have to know first: attributes of which nothing was learned, or little is known."""

from collections.abc import Callable, Iterator, Mapping

from reward_modeling.display.text import count, interval, number, percent
from reward_modeling.results.kind import with_interval

FEW_RATED = 50  # answers: with fewer the intervals are wide, and themselves not certain
SAME = 1e-12  # a squared error of ratings that are all the same, but for rounding


def rating_warnings(evaluation: Mapping) -> Iterator[str]:
    """Each kind once, with the attributes that it is about."""
    attributes, answers = evaluation["attributes"], count(evaluation["answers"])
    if few := {name: of["rows"] for name, of in attributes.items() if of["rows"] < FEW_RATED}:
        yield f"Few held-out answers have a rating: {_listed(few, lambda rows: f'{count(rows)} of {answers}')}"
    if same := [name for name, of in attributes.items() if _has_same_ratings(of)]:
        yield f"All held-out ratings are the same, so that nothing is known of these attributes: {', '.join(same)}"
    compared = {name: of for name, of in attributes.items() if of["rows"] > 1 and name not in same}
    if constant := [name for name, of in compared.items() if of["spearman"]["value"] is None]:
        yield f"The model gives all held-out answers the same output: {', '.join(constant)}"
    if bad := {name: of for name, of in compared.items() if not _is_below_the_mean(of)}:
        words = "The held-out squared error is not clearly below that of always saying the mean"
        yield f"{words}: {_listed(bad, _error_against_mean)}"
    if bad := {name: of for name, of in compared.items() if _is_led_by_length(of)}:
        words = "Spearman's correlation with the ratings is not clearly above that of the answer's length alone"
        yield f"{words}: {_listed(bad, _correlation_against_length)}"
    if bad := {name: of["interval"] for name, of in attributes.items() if _is_too_narrow(of)}:
        yield f"The intervals of the quantiles hold fewer ratings than was meant: {_listed(bad, _held)}"


def _has_same_ratings(of: Mapping) -> bool:
    return of["rows"] > 1 and of["mean_label_squared_error"]["value"] < SAME


def _is_below_the_mean(of: Mapping) -> bool:
    return of["squared_error"]["high"] < of["mean_label_squared_error"]["value"]


def _is_led_by_length(of: Mapping) -> bool:
    """Whatever the direction: from a negative correlation ratings can be told as well."""
    spearman, length = of["spearman"], of["length_spearman"]["value"]
    return None not in (spearman["value"], length) and spearman["low"] <= abs(length)


def _is_too_narrow(of: Mapping) -> bool:
    inside = of["interval"]["coverage"]["high"] if "interval" in of else None
    return inside is not None and inside < of["interval"]["nominal"]


# --- as text ------------------------------------------------------------------------------------------------------


def _listed(each: Mapping, describe: Callable[..., str]) -> str:
    return "; ".join(f"{name}, {describe(value)}" for name, value in each.items())


def _error_against_mean(of: Mapping) -> str:
    return f"{with_interval(of['squared_error'])} against {number(of['mean_label_squared_error']['value'])}"


def _correlation_against_length(of: Mapping) -> str:
    return f"{with_interval(of['spearman'])} against {number(of['length_spearman']['value'])}"


def _held(of: Mapping) -> str:
    return f"{percent(of['coverage']['value'])}% ({interval(of['coverage'])}) instead of {percent(of['nominal'])}%"
