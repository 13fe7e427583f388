"""What is drawn, and figures of what was selected."""

from reward_modeling.best_of_n.answers import ScoredAnswer, ScoredPrompt
from reward_modeling.best_of_n.figures import Figures
from reward_modeling.best_of_n.selection import SELECTIONS, Selected, SelectionOptions


def test_of_two_answers_of_equal_length_each_is_half_the_longer_one():
    prompt = ScoredPrompt([], "", 1, "rows.jsonl:1")
    for lengths, share in (((3, 3), 0.5), ((4, 3), 1.0), ((3, 4), 0.0)):
        chosen, rejected = (
            ScoredAnswer([{"role": "assistant", "content": "x" * length}], 1.0, place)
            for place, length in enumerate(lengths)
        )
        figures = Figures(2, has_truth=False, has_finals=False, seed=0)
        figures.add(prompt)
        figures.add_selected([chosen, rejected], [Selected(chosen, rejected, gap=1.0)])
        assert figures.to_dict()["lengths"]["longer_chosen"]["value"] == share


def test_draws_among_the_same_answers_differ_from_prompt_to_prompt():
    """Else "yes" would be drawn before "no" in every prompt where both are worth as much."""
    answers = [
        ScoredAnswer([{"role": "assistant", "content": text}], 1.0, key) for key, text in enumerate(("yes", "no"))
    ]
    draws = [SELECTIONS["best"](SelectionOptions()).draws(ScoredPrompt([], "", key, ""), answers) for key in range(64)]
    first = sum(one < other for one, other in draws)
    assert 16 < first < 48  # 4 standard errors of 32
