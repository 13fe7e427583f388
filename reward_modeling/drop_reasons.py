"""Why a row is not used: the reasons that are counted, and their words."""

from enum import StrEnum


class DropReason(StrEnum):
    """Why a row is not used. The row-level reasons come first, in the order they are checked."""

    NO_CHOSEN_OR_REJECTED = "no_chosen_or_rejected"
    WRONG_TYPE = "wrong_type"
    EMPTY_REPLY = "empty_reply"
    PROMPTS_DIFFER = "prompts_differ"
    LAST_NOT_ASSISTANT = "last_not_assistant"
    IDENTICAL_TEXT = "identical_text"
    NAN_MARGIN = "nan_margin"
    # Found by later stages, which need the chat template, the tokens or the whole set.
    TEMPLATE_REFUSES = "template_refuses"
    IDENTICAL_TOKENS = "identical_tokens"
    DUPLICATE_PAIR = "duplicate_pair"
    COMPLETION_TOO_LONG = "completion_too_long"
    OVERLONG = "overlong"
    # Choices of a recipe (data_prep), in the order in which they are made.
    NO_SCORE = "no_score"
    EQUAL_SCORES = "equal_scores"
    SMALL_SCORE_RATIO = "small_score_ratio"
    FILTERED = "filtered"
    TOO_FEW_ANSWERS = "too_few_answers"
    SAME_ROLE_TWICE = "same_role_twice"
    BEYOND_PROMPT_LIMIT = "beyond_prompt_limit"
    NOT_SAMPLED = "not_sampled"
    CONTRADICTION = "contradiction"
    IN_BENCHMARK = "in_benchmark"
    NOT_A_TRANSCRIPT = "not_a_transcript"
    MISSING_COLUMN = "missing_column"


REASON_WORDS: dict[DropReason, str] = {
    DropReason.NO_CHOSEN_OR_REJECTED: "chosen or rejected is missing",
    DropReason.WRONG_TYPE: "a field has the wrong type",
    DropReason.EMPTY_REPLY: "a reply is empty",
    DropReason.PROMPTS_DIFFER: "the two prompts differ",
    DropReason.LAST_NOT_ASSISTANT: "the last message is not the assistant's",
    DropReason.IDENTICAL_TEXT: "chosen and rejected are the same text",
    DropReason.NAN_MARGIN: "margin or score is NaN or infinite",
    DropReason.TEMPLATE_REFUSES: "the chat template refuses it",
    DropReason.IDENTICAL_TOKENS: "chosen and rejected are the same tokens",
    DropReason.DUPLICATE_PAIR: "the same pair stands there before",
    DropReason.COMPLETION_TOO_LONG: "a completion alone is too long",
    DropReason.OVERLONG: "prompt and completion are too long",
    DropReason.NO_SCORE: "a score or label is missing",
    DropReason.EQUAL_SCORES: "the scores are equal: nothing is preferred",
    DropReason.SMALL_SCORE_RATIO: "the scores are too close to each other",
    DropReason.FILTERED: "the recipe leaves it out",
    DropReason.TOO_FEW_ANSWERS: "fewer than two answers with different scores",
    DropReason.SAME_ROLE_TWICE: "two turns in a row of one speaker",
    DropReason.BEYOND_PROMPT_LIMIT: "more pairs of a prompt than wanted",
    DropReason.NOT_SAMPLED: "not in the random sample",
    DropReason.CONTRADICTION: "the opposite pair is there too",
    DropReason.IN_BENCHMARK: "the prompt is in a benchmark",
    DropReason.NOT_A_TRANSCRIPT: "it is no transcript of Human and Assistant",
    DropReason.MISSING_COLUMN: "a column is missing",
}
