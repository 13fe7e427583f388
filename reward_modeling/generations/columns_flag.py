"""--columns where generated answers are read."""

from reward_modeling.data.read_options import ReadOptions, read_options

COLUMN_TARGETS = (
    "prompt",
    "responses",
    "completion",
    "chosen",
    "rejected",
    "messages",
    "system",
    "tools",
    "chat_template_kwargs",
    "instruction",
    "output",
    "response_a",
    "response_b",
    "conversation_a",
    "conversation_b",
    "question_id",
)
COLUMNS_HELP = (
    "Columns to read under other names than theirs: prompt=question,responses=answers. Several answers may be in "
    "columns of their own: responses=answer_1+answer_2; texts of several columns are joined by a line break elsewhere: "
    "prompt=instruction+input. A dot leads into an object: completion=answer.text. What may be read: "
    f"{', '.join(COLUMN_TARGETS)}."
)


def read_columns(columns: str | None) -> ReadOptions:
    """
    Raises:
        UserError: with everything that is wrong with the flag.
    """
    return read_options(columns, None, targets=COLUMN_TARGETS)
