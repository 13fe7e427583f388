"""Rows of generated answers in the forms that people have.

    reader = RowReader(read_columns("prompt=question,responses=answers"))
    answers = reader.read({"question": "Why is the sea salty?", "answers": ["Rivers carry salt.", "It just is."]})
    answers.prompt       # [{"role": "user", "content": "Why is the sea salty?"}]
    answers.answers[1]   # [{"role": "assistant", "content": "It just is."}]

A further form is a class in one of the files here, or in a file of its own, and a line in `catalog`.
"""

from reward_modeling.generations.columns_flag import read_columns
from reward_modeling.generations.forms.catalog import FORMS, form_of
from reward_modeling.generations.forms.reader import RowReader

__all__ = ["FORMS", "RowReader", "form_of", "read_columns"]
