"""The last lines of the preflight: what will be trained, and what to look at first."""

import math
from collections.abc import Iterator, Sequence

from reward_modeling.data.prepare import OVERLAP, PreparedPairs
from reward_modeling.data.report import (
    CUT_UNITS,
    LOUD_SHARE_DROPPED,
    NO_USER_TURN,
    NOTED_ROWS,
    TOKENS_CUT,
    DataReport,
    DropReason,
)

LOST = (DropReason.ANSWER_LOSES_TEXT, DropReason.MESSAGE_VANISHES)
LOST_SHARE = 0.01  # of the rows: more rows of which the template leaves something out are refused
UNKNOWN_SHARE = 0.05  # of the tokens: a model that reads more `<unk>` than this does not see the texts
UNKNOWN_SHARE_WARNED = 0.001
CUT_SHARE_WARNED = 0.05
APART = 3.0  # standard errors between two sides that differ by more than chance


def data_problems(reports: Sequence[DataReport]) -> list[str]:
    """What the counts of the data say cannot be trained on."""
    return [problem for report in reports for problem in (*_lost_problems(report), *_unknown_problems(report))]


def _lost_problems(report: DataReport) -> Iterator[str]:
    lost = {reason: report.dropped[reason] for reason in LOST if reason in report.dropped}
    count = sum(rows.count for rows in lost.values())
    if count <= LOST_SHARE * report.rows_read:
        return
    for reason, rows in lost.items():
        yield (
            f"{report.name}: {reason.words}, in {_of(rows.count, report.rows_read)}; the first, {rows.first_where}: "
            f"{' '.join(rows.first_excerpt.split())}. The model would learn from something else than what stands in "
            "the rows. Give the tokenizer a chat template that writes everything, or take out of the rows what it "
            "does not write."
        )


def _unknown_problems(report: DataReport) -> Iterator[str]:
    share = report.unknown_tokens / report.tokens if report.tokens else 0.0
    if share > UNKNOWN_SHARE:
        rows = NOTED_ROWS["unknown"]
        yield (
            f"{report.name}: {share:.1%} of the tokens are unknown to the tokenizer, in {report.notes.get(rows, 0):,} "
            f"rows; the first, {report.first_of_note.get(rows, '')}. Above {UNKNOWN_SHARE:.0%} the model does not see "
            "what the answers say. Take a model whose tokenizer knows this language."
        )


def data_warnings(reports: Sequence[DataReport]) -> list[str]:
    """What the counts of the data say should be looked at, one line each."""
    return [f"{report.name}: {words}" for report in reports for words in _warnings(report)]


def _warnings(report: DataReport) -> Iterator[str]:
    notes, kept = report.notes, max(report.kept, 1)
    if report.share_dropped > LOUD_SHARE_DROPPED:
        reason, rows = max(report.dropped.items(), key=lambda item: item[1].count)
        yield (
            f"{_of(report.rows_read - report.kept, report.rows_read)} are dropped, most of them "
            f"({rows.count:,}) because {DropReason(reason).words}"
        )
    for reason in LOST:
        if rows := report.dropped.get(reason):
            yield f"{reason.words} in {_of(rows.count, report.rows_read)}, which are dropped"
    cut = sum(count for note, count in notes.items() if note.endswith(CUT_UNITS))
    if cut > CUT_SHARE_WARNED * kept:
        yield (
            f"{_of(cut, kept)} have prompts that are cut to --max_length; they lose {notes.get(TOKENS_CUT, 0):,} "
            "tokens in all"
        )
    if alone := notes.get(NO_USER_TURN, 0):
        yield f"{_of(alone, report.rows_read)} have no turn of the user: the answers alone are trained on"
    yield from _control_warnings(report)
    if report.tokens and report.unknown_tokens / report.tokens > UNKNOWN_SHARE_WARNED:
        yield f"{report.unknown_tokens / report.tokens:.1%} of the tokens are unknown to the tokenizer"
    if tools := notes.get(NOTED_ROWS["tools"], 0):
        yield f"{_of(tools, kept)} have tools that the chat template does not write"
    if overlap := notes.get(OVERLAP, 0):
        yield f"{_of(overlap, kept)} have prompts that are also trained on: expect figures that are too good"


def _control_warnings(report: DataReport) -> Iterator[str]:
    """Of an even share on both sides a model learns nothing; of another one it learns to look for the marks."""
    for kind, words in (("control", "control tokens of the tokenizer"), ("foreign", "marks of other chat templates")):
        before, after = NOTED_ROWS[kind].split("{}")
        sides = {
            note.removeprefix(before).removesuffix(after): count
            for note, count in report.notes.items()
            if note.startswith(before)
        }
        chosen, rejected = sides.get("chosen", 0), sides.get("rejected", 0)
        # marks on one side only are drawn from both by chance as coins fall
        differ = abs(chosen - rejected) > APART * math.sqrt(chosen + rejected)
        if not sides or (kind == "foreign" and not differ):  # such marks may be what a text is about
            continue
        counts = ", ".join(f"{count:,} {side}" for side, count in {"chosen": 0, "rejected": 0, **sides}.items() if side)
        end = ": the sides differ, and the model will learn these marks. Take them out of the texts" if differ else ""
        yield f"{words} stand in the answers of {counts} (of {_plural(report.kept, 'rows')} each){end}"


def describe_verdict(data: PreparedPairs, unit: str, pairs_per_step: int | None, kinds: str = "") -> str:
    """What will be trained, and the warnings; the last lines of the preflight.

    Args:
        pairs_per_step: None where no steps are taken.
        kinds: of which kinds the units are, in words (`RowReader.describe_kinds`).
    """
    sizes, steps = data.train.sizes, ""
    if pairs_per_step is not None:
        steps = f", in {_plural(sizes.num_steps(pairs_per_step), 'steps')} an epoch ({pairs_per_step:,} {unit} each)"
    prompts = int((sizes.units_per_group > 0).sum())
    lines = [
        f"Verdict: {_plural(len(data.train), unit)} of {_plural(prompts, 'prompts')} can be trained on{steps}.",
    ]
    lines += [f"  {kinds}"] if kinds else []
    held_out = len(data.evaluation) if data.evaluation is not None else 0
    sets = ", ".join(f"{_plural(len(groups), unit)} of {name}" for name, groups in data.evaluations.items())
    warnings = data_warnings(data.reports)
    warnings += [
        f"{of.name}: no row of this set is kept; see its table above" for of in data.set_reports if not of.kept
    ]
    if held_out:
        lines.append(f"  Held out for evaluation: {sets or _plural(held_out, unit)}.")
    else:
        warnings.append(f"no {unit} are held out: nothing will tell what the model has learned (--eval_set_path)")
    lines += ["  Warnings:", *(f"  - {warning}" for warning in warnings)] if warnings else ["  No warnings."]
    return "\n".join(lines)


def _of(count: int, whole: int) -> str:
    return f"{count:,} of {_plural(whole, 'rows')} ({count / max(whole, 1):.1%})"


def _plural(count: int, words: str) -> str:
    return f"{count:,} {words if count != 1 else words.removesuffix('s')}"
