"""--step_separator and --prompt_format where a process model is used: how one reads an answer that does not say it.

read_step_format("\\n", None)      # {"separator": "\n"}, for `readouts.catalog.readout_of`
"""

from typing import Any

from reward_modeling.common.errors import UserError
from reward_modeling.objectives.process_flags import CHAT, PLAIN, read_separator, separator_problem

PROMPT_FORMATS = (CHAT, PLAIN)
STEP_SEPARATOR_HELP = (
    "Of a process model, what stands behind each step, at whose last token the score is read; \\n is a line break, "
    "empty is the last token of the step. Unset: what rm_process.py has saved with the model; for a model of "
    "others it has to be given (TRL: \\n)."
)
PROMPT_FORMAT_HELP = (
    "Of a process model, chat: the chat template writes the prompt; plain: it stands as it is, as TRL has it. Unset: "
    "what was saved with the model; beside --step_separator plain, where nothing was."
)


def read_step_format(separator: str | None, prompt_format: str | None) -> dict[str, Any] | None:
    """What takes the place of what was saved with a process model, by the names of `ProcessFormat`; None: nothing does.

    Raises:
        UserError: the separator is no text that stands out.
    """
    given: dict[str, Any] = {} if separator is None else {"separator": read_separator(separator)}
    if problem := separator_problem(separator):
        raise UserError(problem)
    given |= {} if prompt_format is None else {"chat": prompt_format == CHAT}
    return given or None
