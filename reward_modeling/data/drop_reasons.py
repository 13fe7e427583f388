"""Why rows are not used."""

from enum import StrEnum


class DropReason(StrEnum):
    """Why a row is not used: its name in files, and its words. Those of single rows come first, as they are checked."""

    words: str

    def __new__(cls, value: str, words: str) -> "DropReason":
        reason = str.__new__(cls, value)
        reason._value_, reason.words = value, words
        return reason

    NO_CHOSEN_OR_REJECTED = "no_chosen_or_rejected", "chosen or rejected is missing"
    WRONG_TYPE = "wrong_type", "a field has the wrong type"
    UNKNOWN_ROLE = "unknown_role", "the role of a message is not known"
    PART_NOT_TEXT = "part_not_text", "a part of a message is no text"
    EMPTY_REPLY = "empty_reply", "a reply is empty"
    PROMPTS_DIFFER = "prompts_differ", "the two prompts differ"
    LAST_NOT_ASSISTANT = "last_not_assistant", "the last message is not the assistant's"
    IDENTICAL_TEXT = "identical_text", "chosen and rejected are the same text"
    LENGTHS_DIFFER = "lengths_differ", "completions and their ranks or scores are not as many"
    NAN_MARGIN = "nan_margin", "margin, score or rating is NaN or infinite"
    LABEL_OUT_OF_RANGE = "label_out_of_range", "a probability, strength or weight is out of range"
    ZERO_WEIGHT = "zero_weight", "its weight is 0"
    # Of answers with ratings.
    NO_RESPONSE = "no_response", "messages or the response is missing"
    NOT_RATED = "not_rated", "none of the attributes is rated"
    # Of steps.
    NO_STEPS = "no_steps", "the prompt, the steps or the labels are missing"
    EMPTY_STEP = "empty_step", "a step is empty"
    LABELS_DIFFER = "labels_differ", "steps and labels are not as many"
    STEPS_NOT_LABELLED = "steps_not_labelled", "no step has a label"
    LAST_STEP_NOT_LABELLED = "last_step_not_labelled", "the last step, which --last_step_only reads, has no label"
    MARKS_DIFFER = "marks_differ", "the marks in input and label differ"
    NO_FIRST_STEP = "no_first_step", "nothing says where the question ends and the first step begins"
    NO_WAY_ON = "no_way_on", "it does not say which of several alternatives the steps go on from"
    # Found by later stages, which need the chat template, the tokens or the whole set.
    TIE = "tie", "a tie, which --ties drop leaves out"
    TEMPLATE_REFUSES = "template_refuses", "the chat template refuses it"
    ANSWER_LOSES_TEXT = "answer_loses_text", "the chat template leaves out a part of an answer"
    MESSAGE_VANISHES = "message_vanishes", "the chat template leaves out a message"
    IDENTICAL_TOKENS = "identical_tokens", "chosen and rejected are the same tokens"
    DUPLICATE_PAIR = "duplicate_pair", "the same pair or rated answer stands there before"
    COMPLETION_TOO_LONG = "completion_too_long", "a completion is too long, even without its prompt"
    OVERLONG = "overlong", "prompt and completion are too long"
    # Choices of a recipe (data_prep), in the order in which they are made.
    NO_SCORE = "no_score", "a score or label is missing"
    MORE_THAN_TWO = "more_than_two", "more than two completions"
    EQUAL_SCORES = "equal_scores", "the scores are equal: nothing is preferred"
    SMALL_SCORE_RATIO = "small_score_ratio", "the scores are too close to each other"
    FILTERED = "filtered", "the recipe leaves it out"
    TOO_FEW_ANSWERS = "too_few_answers", "fewer than two answers with different scores"
    SAME_ROLE_TWICE = "same_role_twice", "two turns in a row of one speaker"
    BEYOND_PROMPT_LIMIT = "beyond_prompt_limit", "more pairs of a prompt than wanted"
    NOT_SAMPLED = "not_sampled", "not in the random sample"
    JOINED = "joined", "an earlier source has the answer, and takes its ratings"
    CONTRADICTION = "contradiction", "the opposite pair is there too"
    IN_BENCHMARK = "in_benchmark", "the prompt is in a benchmark"
    NOT_A_TRANSCRIPT = "not_a_transcript", "it is no transcript of Human and Assistant"
    MISSING_COLUMN = "missing_column", "a column is missing"
