"""What `--verify_server` says on the screen."""

import math
from collections.abc import Iterator

from reward_modeling.common.file_names import VERIFICATION
from reward_modeling.display.text import align, make_printable, wrap
from reward_modeling.serving.verification import Comparison, Report
from reward_modeling.serving.verification_rows import FLOAT32

MOST_ROWS = 12  # that are shown of a way that differs, the largest differences


def report_lines(report: Report) -> list[str]:
    """The verdict, what was compared, and of each way that differs its rows and the cause."""
    return [*_head(report), "", *(line for one in report.comparisons for line in _way(one)), "", *_verdict(report)]


def _head(report: Report) -> Iterator[str]:
    checkpoint = report.checkpoint
    lengths = [len(row.ids) for row in checkpoint.rows]
    yield from wrap(f"Server: {report.url}, {report.server}", hanging=2)
    rows = f"{len(lengths)} rows of {min(lengths):,} to {max(lengths):,} tokens"
    yield from wrap(f"Checkpoint: {checkpoint.name}, {rows}, verified when it was saved", hanging=2)
    tolerances = sorted({f"{value:.2g}" for one in report.comparisons[:1] for value in one.tolerances.values()})
    reason = "a ten-thousandth of the largest, or of 1 (float32)"
    if report.dtype != FLOAT32:
        reason = f"as the checkpoint's own outputs are moved by rounding in {report.dtype}"
    yield from wrap(f"Tolerance: {' to '.join(dict.fromkeys((tolerances[0], tolerances[-1])))}, {reason}", hanging=2)


def _way(one: Comparison) -> Iterator[str]:
    title = one.way.name[0].upper() + one.way.name[1:]
    if one.left_out and one.way.decides:
        title += f" ({one.left_out} of {one.left_out + len(one.rows)} rows have no text that gives their tokens)"
    if not one.rows:
        yield from wrap(f"{title}: not sent.")
        return
    if not one.way.decides:
        yield from wrap(f"{title}: {_what_comes_of_it(one)}")
        return
    largest = max(one.differences)
    size = f"largest difference {largest:.2g}" if math.isfinite(largest) else f"{_count_without(one)} without rewards"
    yield from wrap(f"{title}: {'equal' if one.equal else 'DIFFERENT'}, {size}.")
    if not one.equal:
        yield from _rows(one)
        for cause in one.causes:
            yield from wrap(f"Cause: {cause.name}. {cause.sentence}", indent=2, hanging=2)


def _count_without(one: Comparison) -> str:
    return f"{sum(map(math.isinf, one.differences))} of {len(one.rows)} rows"


def _what_comes_of_it(one: Comparison) -> str:
    """Of a way in which this server is not to be asked."""
    if one.equal:
        return "equal too."
    names = ", ".join(cause.name for cause in one.causes)
    return f"other rewards, by up to {_number(max(one.differences))} ({names}). Do not send texts so."


def _rows(one: Comparison) -> Iterator[str]:
    order = sorted(range(len(one.rows)), key=lambda place: -one.differences[place])[:MOST_ROWS]
    table = [("row", "tokens", "value", "due", "served", "difference")]
    for place in sorted(order):
        due, served = one.expected[place], one.served[place]
        name = max(due, key=lambda name: _apart(due[name], (served or {}).get(name)))
        value = (served or {}).get(name)
        shown = "refused" if served is None else "none" if value is None else f"{value:.6g}"
        difference = _number(one.differences[place])
        table.append((str(place), str(len(one.rows[place].ids)), name, f"{due[name]:.6g}", shown, difference))
    yield from align(table, words=(2,))
    if len(one.rows) > MOST_ROWS:
        yield f"  the {MOST_ROWS} largest of {len(one.rows)}"


def _apart(due: float, served: float | None) -> float:
    return math.inf if served is None or math.isnan(served) else abs(due - served)


def _number(difference: float) -> str:
    return f"{difference:.2g}" if math.isfinite(difference) else "-"


def _verdict(report: Report) -> list[str]:
    if report.equal:
        within, hidden = "", ""
        if report.dtype != FLOAT32:
            within = f" within the rounding of {report.dtype} ({report.tolerance:.2g})"
            hidden = f" That hides differences of the model up to {report.tolerance:.2g}{_who_says(report)}."
        ways = "; ".join(one.way.name for one in report.deciding)
        size = f"The largest difference is {report.largest:.2g}.{hidden}"
        scope = f"as {ways}; up to {report.longest_row:,} tokens"
        return wrap(f"EQUAL{within}: what is served is what was saved ({scope}). {size}{_not_compared(report)}")
    if report.is_changed:
        return wrap(
            f"DIFFERENT: the files of {report.checkpoint.name} give other rewards here than its {VERIFICATION} says "
            "(changed files): they were changed after they were verified. The server was compared with the saved "
            "rewards alone."
        )
    if not report.deciding:
        return wrap("NOT COMPARED: no row has a text that gives its tokens, and this protocol takes texts alone.")
    names = dict.fromkeys(cause.name for one in report.deciding for cause in one.causes)
    return wrap(f"DIFFERENT: what is served is not what was saved ({make_printable('; '.join(names))}).")


def _who_says(report: Report) -> str:
    """A server says in what it computes, or the flag alone does."""
    return "" if report.server.dtype else f", and that it computes in {report.dtype} is what --served_dtype says"


def _not_compared(report: Report) -> str:
    if report.local is None:
        return " Not compared, without --load_model true: the chat template, longer rows, and the files as they are."
    if report.messages or not report.takes_messages:
        return ""
    return " Not compared: the chat template, since the checkpoint has none that takes a plain conversation."
