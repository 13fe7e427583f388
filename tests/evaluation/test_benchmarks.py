"""The formulas of the benchmarks against numbers worked out by hand, published rows, and obvious loops."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reward_modeling.common.errors import UserError
from reward_modeling.common.intervals import (
    accuracy_by_length,
    by_subset,
    estimate,
    finite_rewards,
    longer_wins,
    pair_accuracy,
    resampled_means,
    wilson_interval,
)
from reward_modeling.common.pair_statistics import calibration_bins, calibration_error
from reward_modeling.evaluation.benchmarks.base import Benchmark, check_subsets
from reward_modeling.evaluation.benchmarks.catalog import BENCHMARKS, COMBINED
from reward_modeling.evaluation.benchmarks.preference_test_sets import TEST_SET_ROWS, overall_with_prior, prior_score
from reward_modeling.evaluation.benchmarks.rewardbench import SECTIONS, SUBSET_ROWS, section_scores
from reward_modeling.evaluation.benchmarks.rewardbench2 import (
    REWARDBENCH2_ROWS,
    best_of_four_credit,
    check_ties,
    rewardbench2_scores,
    ties_parts,
    ties_units,
)
from reward_modeling.evaluation.benchmarks.rm_bench import (
    RM_BENCH_PROMPTS,
    rm_bench_by_domain,
    rm_bench_scores,
    rm_bench_wins,
)
from reward_modeling.evaluation.benchmarks.scored_rows import ScoredRow

REWARDBENCH, REWARDBENCH2 = BENCHMARKS["rewardbench"], BENCHMARKS["rewardbench2"]
PREFERENCE_TEST_SETS, RM_BENCH = BENCHMARKS["preference_test_sets"], BENCHMARKS["rm_bench"]

# LDL-Reward-Gemma-2-27B-v0.1, published with every subset.
PUBLISHED = {
    "alpacaeval-easy": 0.990000,
    "alpacaeval-hard": 0.947368,
    "alpacaeval-length": 0.936842,
    "donotanswer": 0.816176,
    "hep-cpp": 0.981707,
    "hep-go": 0.981707,
    "hep-java": 0.993902,
    "hep-js": 0.993902,
    "hep-python": 0.975610,
    "hep-rust": 0.957317,
    "llmbar-adver-GPTInst": 0.956522,
    "llmbar-adver-GPTOut": 0.829787,
    "llmbar-adver-manual": 0.847826,
    "llmbar-adver-neighbor": 0.910448,
    "llmbar-natural": 0.940000,
    "math-prm": 1.000000,
    "mt-bench-easy": 1.000000,
    "mt-bench-hard": 0.864865,
    "mt-bench-med": 0.975000,
    "refusals-dangerous": 0.970000,
    "refusals-offensive": 0.990000,
    "xstest-should-refuse": 0.948052,
    "xstest-should-respond": 0.964000,
}
PUBLISHED_SECTIONS = {"Chat": 0.963687, "Chat Hard": 0.907895, "Safety": 0.937838, "Reasoning": 0.990346}


def warnings_of(counts: dict[str, int], benchmark: Benchmark) -> list[str]:
    """Those of so many rows of each subset."""
    rows = [ScoredRow(0, name, np.ones(1), np.zeros(1)) for name, rows in counts.items() for _ in range(rows)]
    return check_subsets(benchmark, rows)


# --- RewardBench and the prior sets ----------------------------------------------------------------------------------


def test_the_tables_of_subsets_add_up():
    assert sum(SUBSET_ROWS.values()) == 2985 and len(SUBSET_ROWS) == 23
    assert {name: sum(SUBSET_ROWS[subset] for subset in SECTIONS[name]) for name in SECTIONS} == {
        "Chat": 358,
        "Chat Hard": 456,
        "Safety": 740,
        "Reasoning": 1431,
    }
    assert len(TEST_SET_ROWS) == 9 and sum(TEST_SET_ROWS.values()) == 43175
    assert sum(REWARDBENCH2_ROWS.values()) == 1865
    assert SUBSET_ROWS["llmbar-adver-neighbor"] == 134 and SUBSET_ROWS["xstest-should-refuse"] == 154


def test_the_published_row_comes_out():
    scores = section_scores(PUBLISHED)
    assert list(scores) == ["Chat", "Chat Hard", "Safety", "Reasoning", "overall"]
    assert {name: scores[name] for name in PUBLISHED_SECTIONS} == pytest.approx(PUBLISHED_SECTIONS, abs=1e-6)
    assert scores["overall"] == pytest.approx((0.963687 + 0.907895 + 0.937838 + 0.990346) / 4, abs=1e-6)
    assert all(isinstance(score, float) for score in scores.values())


def test_the_published_row_misses_with_the_old_xstest_weights():
    """97 + 99 + 250 x 0.948052 + 154 x 0.964 + 111 of 740: only Safety moves, and by more than the digits published."""
    scores = section_scores(PUBLISHED, legacy_xstest_weights=True)
    safety = (97 + 99 + 250 * 146 / 154 + 154 * 241 / 250 + 111) / 740
    assert scores["Safety"] == pytest.approx(safety, abs=1e-6)
    assert abs(scores["Safety"] - PUBLISHED_SECTIONS["Safety"]) > 1e-3
    now = section_scores(PUBLISHED)
    assert {k: v for k, v in scores.items() if k not in ("Safety", "overall")} == {
        k: v for k, v in now.items() if k not in ("Safety", "overall")
    }


@pytest.mark.parametrize(("legacy", "safety"), [(False, 154 / 740), (True, 250 / 740)])
def test_the_weight_of_should_refuse(legacy, safety):
    accuracy = dict.fromkeys(SUBSET_ROWS, 0.0) | {"xstest-should-refuse": 1.0}
    assert section_scores(accuracy, legacy_xstest_weights=legacy)["Safety"] == pytest.approx(safety, abs=1e-12)


def test_maths_and_code_count_the_same():
    accuracy = dict.fromkeys(SUBSET_ROWS, 0.0) | {"math-prm": 1.0}
    assert section_scores(accuracy)["Reasoning"] == pytest.approx(0.5, abs=1e-12)
    accuracy = dict.fromkeys(SUBSET_ROWS, 0.0) | {"hep-go": 1.0}
    assert section_scores(accuracy)["Reasoning"] == pytest.approx(1 / 12, abs=1e-12)


def test_percent_in_percent_out():
    percent = section_scores({name: 100 * value for name, value in PUBLISHED.items()})
    assert percent["Chat"] == pytest.approx(96.3687, abs=1e-4)


@pytest.mark.parametrize("subset", SUBSET_ROWS)
def test_a_missing_subset_leaves_its_section_and_overall_without_a_score(subset):
    accuracy = {name: value for name, value in PUBLISHED.items() if name != subset}
    scores, whole = section_scores(accuracy), section_scores(PUBLISHED)
    section = next(name for name in SECTIONS if subset in SECTIONS[name])
    assert len(scores) == 5 and math.isnan(scores[section]) and math.isnan(scores["overall"])
    assert {name: score for name, score in scores.items() if not math.isnan(score)} == {
        name: score for name, score in whole.items() if name not in (section, "overall")
    }
    (message,) = warnings_of({name: SUBSET_ROWS[name] for name in accuracy}, REWARDBENCH)
    assert f"missing: {subset!r} ({SUBSET_ROWS[subset]} rows)" in message
    assert message.endswith(f"without a score: {section}, overall")


def test_a_nan_accuracy_is_no_score_either_and_an_empty_table_has_none():
    scores = section_scores(PUBLISHED | {"donotanswer": math.nan})
    assert math.isnan(scores["Safety"]) and math.isnan(scores["overall"]) and not math.isnan(scores["Chat"])
    assert all(math.isnan(score) for score in section_scores({}).values())


def test_misspelt_subsets_are_named_with_the_right_spelling():
    """The two names that once made 176 rows vanish."""
    wrong = {"mt-bench-med": "mt-bench-medium", "donotanswer": "do not answer"}
    messages = warnings_of({wrong.get(name, name): rows for name, rows in SUBSET_ROWS.items()}, REWARDBENCH)
    assert len(messages) == 3
    assert "unknown subset 'do not answer' (did you mean 'donotanswer'?): its rows count in no score" in messages[0]
    assert "unknown subset 'mt-bench-medium' (did you mean 'mt-bench-med'?)" in messages[1]
    assert "missing: 'mt-bench-med' (40 rows), 'donotanswer' (136 rows): incomplete" in messages[2]
    assert section_scores(PUBLISHED | {"mt-bench-medium": 0.0}) == section_scores(PUBLISHED)


def test_checks_are_silent_on_a_whole_benchmark_and_count_rows():
    for benchmark in BENCHMARKS.values():
        assert warnings_of(benchmark.subset_rows, benchmark) == []
    (short,) = warnings_of(SUBSET_ROWS | {"hep-go": 163}, REWARDBENCH)
    assert "1 subset has other numbers of rows than published (hep-go 163 for 164)" in short
    (empty,) = warnings_of(SUBSET_ROWS | {"hep-go": 0}, REWARDBENCH)
    assert "missing: 'hep-go' (164 rows)" in empty
    no_shp = {name: rows for name, rows in TEST_SET_ROWS.items() if name not in ("shp", "pku_safer")}
    (both,) = warnings_of(no_shp, PREFERENCE_TEST_SETS)
    assert both.endswith("'pku_safer' (9,000 rows), 'shp' (1,741 rows): incomplete, and without a score: Prior Sets")
    (safer,) = warnings_of(TEST_SET_ROWS | {"pku_safer": 0}, PREFERENCE_TEST_SETS)
    assert safer == "Preference test sets: missing: 'pku_safer' (9,000 rows)"
    (ties,) = warnings_of(REWARDBENCH2_ROWS | {"Ties": 0}, REWARDBENCH2)
    assert ties.endswith("missing: 'Ties' (102 rows): incomplete, and without a score: overall")


def rows_of(sizes: dict[str, int]) -> list[str]:
    """The subset of each row."""
    return [name for name, rows in sizes.items() for _ in range(rows)]


def test_rows_behind_each_figure():
    assert REWARDBENCH.figure_rows(rows_of(SUBSET_ROWS)) == {
        "Chat": 358,
        "Chat Hard": 456,
        "Safety": 740,
        "Reasoning": 1431,
        "overall": 2985,
    }
    assert REWARDBENCH.figure_rows(rows_of({"mt-bench-hard": 5, "x": 9}))["overall"] == 5
    assert PREFERENCE_TEST_SETS.figure_rows(rows_of(TEST_SET_ROWS)) == {"Prior Sets": 6192 + 221 + 1741 + 9000}


def test_prior_sets_is_a_plain_mean_of_four_of_the_nine():
    accuracy = {"anthropic_helpful": 0.7, "anthropic_hhh": 0.9, "shp": 0.6, "summarize": 0.4, "pku_safer": 0.0}
    assert prior_score(accuracy) == pytest.approx((0.7 + 0.9 + 0.6 + 0.4) / 4, abs=1e-12)
    assert math.isnan(prior_score({name: value for name, value in accuracy.items() if name != "shp"}))


@pytest.mark.parametrize(
    ("sections", "prior", "overall"),
    [((94.4, 40.8, 44.0, 76.4), 66.5, 64.2), ((99.4, 65.1, 87.8, 86.4), 74.9, 83.6)],
    ids=["RM-Gemma-2B", "FsfairX-LLaMA3-RM"],
)
def test_published_overall_scores_with_prior_sets(sections, prior, overall):
    scores = dict(zip(SECTIONS, sections, strict=True))
    assert overall_with_prior(scores, prior) == pytest.approx((sum(sections) + prior / 2) / 4.5, abs=1e-9)
    assert round(overall_with_prior(scores, prior), 1) == overall
    assert math.isnan(overall_with_prior(scores, math.nan))
    assert math.isnan(overall_with_prior({"Chat": 1.0}, prior))


@pytest.mark.parametrize("legacy", [False, True])
def test_the_overall_score_takes_subsets_and_test_sets_in_one_mapping(legacy):
    formula = COMBINED.weighed(legacy_xstest_weights=legacy).formula
    means = PUBLISHED | dict.fromkeys(TEST_SET_ROWS, 0.5)
    sections = section_scores(PUBLISHED, legacy_xstest_weights=legacy)
    expected = (sum(sections[name] for name in SECTIONS) + 0.25) / 4.5
    assert formula(means, {}) == {"overall with prior sets": pytest.approx(expected, abs=1e-9)}
    assert math.isnan(formula(PUBLISHED, {})["overall with prior sets"])
    assert (expected == pytest.approx((sum(PUBLISHED_SECTIONS.values()) + 0.25) / 4.5, abs=1e-6)) is not legacy


# --- RewardBench 2 ---------------------------------------------------------------------------------------------------


def test_credit_is_shared_among_the_answers_at_the_top():
    rewards = [[3, 1, 2, 0], [3, 3, 2, 0], [3, 3, 3, 0], [1, 1, 1, 1], [2, 3, 1, 0], [-1, -1.5, -2, -1.01]]
    assert best_of_four_credit(rewards).tolist() == pytest.approx([1, 1 / 2, 1 / 3, 1 / 4, 0, 1], abs=1e-12)
    assert best_of_four_credit(np.zeros((0, 4))).shape == (0,)


def test_rows_of_another_shape_and_broken_rewards_are_refused():
    with pytest.raises(ValueError, match=r"\(rows, 4\), found \(2, 3\)"):
        best_of_four_credit(np.zeros((2, 3)))
    with pytest.raises(UserError, match=r"1 of 8 that are not, the first at index \(1, 2\).*nan"):
        best_of_four_credit([[1, 2, 3, 4], [1, 2, math.nan, 4]])


TIES_IDS = ["tied:1", "ref:1", "ref:2", "tied:2", "tied:3", "ref:3", "tied:4", "ref:4"]
TIES_RIGHT = [[3, 2], [5], [2], [3.5, 4], [1, 0], [0], [2, 2], [1]]
TIES_WRONG = [[1, 0], [3], [1], [1], [2], [1], [2], [0]]


def test_ties_by_hand():
    """
    N   gap of tied  spread  gap of ref   tied right  ref right  gap > spread  smaller gap > spread  tanh
    1   2 - 1 = 1    1       2            1           1          0             0                     tanh(1 - 1) = 0
    2   2.5          0.5     1            1           1          1             1                     tanh(2 - 1)
    3   -2           1       -1           0           0          0             0                     tanh(-2 - 1)
    4   0            0       1            0           1          0             0                     0 / 0 counts 0
    """
    units = ties_units(TIES_IDS, TIES_RIGHT, TIES_WRONG)
    assert units.shape == (4, 8)
    parts = ties_parts(units.mean(axis=0))
    tanh = (0.7615941559557649 - 0.9950547536867305) / 4
    assert parts.tolist() == pytest.approx([2 / 4, 3 / 4, 1 / 4, 1 / 4, tanh], abs=1e-12)
    score = rewardbench2_scores({"Ties": units.mean(axis=0)})["Ties"]
    assert score == pytest.approx(0.15 + 0.225 + 0.05 + 0.05 + 0.01 * tanh, abs=1e-12)
    assert score == pytest.approx(0.47441635, abs=1e-8)


@pytest.mark.parametrize(
    ("wrong", "parts"),
    [(1.0, [1, 1, 1, 1, 1.0]), (2.0, [0, 0, 0, 0, 0.0]), (3.0, [0, 0, 0, 0, -1.0])],
    ids=["positive gap", "no gap", "negative gap"],
)
def test_a_spread_of_zero(wrong, parts):
    units = ties_units(["tied:7", "ref:7"], [[2, 2, 2], [2]], [[wrong], [wrong, 0]])
    assert ties_parts(units.mean(axis=0)).tolist() == parts


def test_the_smaller_gap_decides_whichever_row_it_is_of():
    units = ties_units(["tied:0", "ref:0"], [[10, 8], [1]], [[1], [0]])
    assert units.tolist() == [[1, 1, 1, 1, 1, 1, 0, pytest.approx(math.tanh(1 / 2 - 1))]]


def test_a_row_without_its_partner_counts_in_the_accuracy_alone_and_is_named():
    units = ties_units(["tied:1", "ref:1", "tied:2"], [[3, 2], [5], [1, 1]], [[1], [3], [4]])
    assert ties_parts(units.mean(axis=0)).tolist() == pytest.approx([1 / 2, 1, 0, 0, 0], abs=1e-12)
    assert check_ties(["tied:1", "ref:1"]) == []
    (message,) = check_ties(["tied:1", "ref:1", "tied:2"])
    assert "tied:2 has no ref:2" in message
    only_ref = ties_units(["ref:1"], [[5]], [[3]])
    assert math.isnan(rewardbench2_scores({"Ties": only_ref.mean(axis=0)})["Ties"])


@pytest.mark.parametrize(
    ("ids", "right", "wrong", "match"),
    [
        (["other:1"], [[1]], [[0]], "'ref:N' or 'tied:N', found 'other:1'"),
        (["ref:"], [[1]], [[0]], "found 'ref:'"),
        (["ref:1", "ref:1"], [[1], [1]], [[0], [0]], "'ref:1' again"),
        (["ref:1"], [[1]], [[]], "ref:1: expected right and wrong answers"),
        (["ref:1"], [[math.inf]], [[0]], "ref:1, right answers"),
    ],
)
def test_ties_rows_that_cannot_be_scored(ids, right, wrong, match):
    with pytest.raises(UserError, match=match):
        ties_units(ids, right, wrong)


def test_the_overall_score_is_the_plain_mean_of_six():
    scores = dict(zip(REWARDBENCH2_ROWS, (0.1, 0.2, 0.3, 0.4, 0.5, 0.9), strict=True))
    means = {**scores, "Ties": ties_units(TIES_IDS, TIES_RIGHT, TIES_WRONG).mean(axis=0), "unknown": 1.0}
    whole = rewardbench2_scores(means)
    assert list(whole) == [*REWARDBENCH2_ROWS, "overall"]
    assert whole["overall"] == pytest.approx((1.5 + 0.47441635) / 6, abs=1e-8)
    del means["Focus"]
    incomplete = rewardbench2_scores(means)
    assert math.isnan(incomplete["Focus"]) and math.isnan(incomplete["overall"]) and incomplete["Math"] == 0.3


# --- RM-Bench --------------------------------------------------------------------------------------------------------

RM_BENCH_NAMES = ["chat", "code", "math", "safety-refuse", "safety-response"]
RM_BENCH_DOMAIN_NAMES = ("chat", "code", "math", "safety")


def rm_bench_scores_of(domains: list[str], wins: np.ndarray) -> dict[str, float]:
    matrices = rm_bench_by_domain(domains, wins)
    rows = {name: len(one) for name, one in matrices.items()}
    return rm_bench_scores({name: one.mean(axis=0) for name, one in matrices.items()}, rows)


def rm_bench_warnings(domains: list[str]) -> list[str]:
    return check_subsets(RM_BENCH, [ScoredRow(0, domain, np.ones(3), np.zeros(3)) for domain in domains])


def test_the_matrix_of_one_prompt_by_hand():
    """chosen 1, 2, 3 against rejected 0, 2, 5: a tie (2 against 2) is lost."""
    wins = rm_bench_wins([[1, 2, 3]], [[0, 2, 5]])
    assert wins.tolist() == [[[True, False, False], [True, False, False], [True, True, False]]]
    scores = rm_bench_scores({"math": wins.mean(axis=0)}, {"math": 1})
    assert (scores["math hard"], scores["math normal"], scores["math easy"]) == pytest.approx((0, 1 / 3, 1), abs=1e-12)
    assert scores["math"] == pytest.approx(4 / 9, abs=1e-12)
    assert len(scores) == 21 and math.isnan(scores["chat hard"]) and math.isnan(scores["overall"])


def test_a_model_that_only_follows_style_fails_what_is_hard():
    wins = rm_bench_wins([[0, 1, 2]] * 5, [[0, 1, 2]] * 5)
    scores = rm_bench_scores_of(RM_BENCH_NAMES, wins)
    assert [scores[level] for level in ("hard", "normal", "easy")] == [0, 0, 1]
    assert scores["overall"] == pytest.approx(1 / 3, abs=1e-12)


def test_the_safety_parts_are_pooled_by_prompts_and_a_lacking_one_is_not_made_up():
    domains = [*RM_BENCH_NAMES, "safety-response", "safety-response"]
    wins = np.zeros((7, 3, 3))
    wins[3] = 1  # the one prompt of safety-refuse; safety-response has three
    scores = rm_bench_scores_of(domains, wins)
    assert scores["safety"] == 0.25 and scores["overall"] == 0.25 / 4
    scores = rm_bench_scores_of(domains[:4], wins[:4])
    assert math.isnan(scores["safety"]) and math.isnan(scores["hard"]) and scores["chat"] == 0
    missing, sizes = rm_bench_warnings(domains[:4])
    assert "missing: 'safety-response' (157 rows)" in missing
    assert missing.endswith(
        "safety hard, safety normal, safety easy, safety, hard, normal, easy, overall, over prompts"
    )
    assert "4 subsets have other numbers of rows than published (chat 1 for 129, and so on)" in sizes


def test_domains_go_by_prefix_and_unknown_ones_are_named():
    domains = ["chat-extra", "code", "math", "safety-refuse", "safety-response-2", "poetry", "poetry"]
    assert {k: len(v) for k, v in rm_bench_by_domain(domains, np.zeros((7, 3, 3))).items()} == {
        "chat": 1,
        "code": 1,
        "math": 1,
        "safety": 2,
    }
    unknown, _ = rm_bench_warnings(domains)
    assert "unknown subset 'poetry': its rows count in no score" in unknown
    whole = rows_of(RM_BENCH_PROMPTS)
    assert len(whole) == 1327 and rm_bench_warnings(whole) == []


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 2**32 - 1), prompts=st.integers(1, 30))
def test_rm_bench_equals_an_obvious_loop(seed, prompts):
    generator = np.random.default_rng(seed)
    domains = RM_BENCH_NAMES + generator.choice(RM_BENCH_NAMES, prompts).tolist()
    chosen, rejected = generator.integers(0, 4, (2, len(domains), 3)).tolist()
    cells = {(domain, level): [] for domain in RM_BENCH_DOMAIN_NAMES for level in ("hard", "normal", "easy")}
    for name, good, bad in zip(domains, chosen, rejected, strict=True):
        for i in range(3):
            for j in range(3):
                level = "hard" if i < j else "normal" if i == j else "easy"
                cells[name.split("-")[0], level].append(1 if good[i] > bad[j] else 0)
    expected = {f"{domain} {level}": sum(values) / len(values) for (domain, level), values in cells.items()}
    for domain in RM_BENCH_DOMAIN_NAMES:
        expected[domain] = sum(expected[f"{domain} {level}"] for level in ("hard", "normal", "easy")) / 3
    for level in ("hard", "normal", "easy"):
        expected[level] = sum(expected[f"{domain} {level}"] for domain in RM_BENCH_DOMAIN_NAMES) / 4
    expected["overall"] = (expected["hard"] + expected["normal"] + expected["easy"]) / 3
    of_prompt = [expected[name.split("-")[0]] for name in domains]
    expected["over prompts"] = sum(of_prompt) / len(of_prompt)
    assert rm_bench_scores_of(domains, rm_bench_wins(chosen, rejected)) == pytest.approx(expected)


def test_rm_bench_rewards_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"\(prompts, 3\)"):
        rm_bench_wins(np.zeros((2, 3)), np.zeros((2, 2)))
    with pytest.raises(UserError, match="rejected of RM-Bench"):
        rm_bench_wins([[1, 2, 3]], [[1, math.nan, 3]])


# --- pairs: accuracy, length, calibration ----------------------------------------------------------------------------


def test_a_tie_is_wrong_and_counted():
    low, high = wilson_interval(1, 4)
    accuracy = pair_accuracy([2.0, 1.0, 0.0, 5.0], [1.0, 1.0, 3.0, 5.0])
    assert accuracy == {"value": 0.25, "low": low, "high": high, "rows": 4, "right": 1, "ties": 2}
    assert pair_accuracy([], [])["value"] is None


def test_float32_rewards_are_compared_as_they_are():
    one = np.float32(1)
    assert pair_accuracy(np.array([one, np.nextafter(one, np.float32(2))]), np.array([one, one]))["right"] == 1


@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf])
def test_broken_rewards_are_refused_and_named(broken):
    with pytest.raises(UserError, match=r"rejected: .* 2 of 3 that are not, the first at index \(1,\)"):
        pair_accuracy([1, 2, 3], [0, broken, broken])
    assert finite_rewards(np.float32([1.5]), "x").dtype == np.float64


def test_arrays_of_different_lengths_are_refused():
    with pytest.raises(ValueError, match="one shape"):
        pair_accuracy([1, 2], [1])
    with pytest.raises(ValueError, match="one length for each of 2 pairs"):
        accuracy_by_length([1, 2], [0, 0], [5], [4])
    with pytest.raises(ValueError, match="one subset per row"):
        by_subset(["a"], [1, 2])


def test_the_longer_answer_wins_with_equal_lengths_as_half():
    baseline = longer_wins([10, 5, 7, 7], [5, 10, 7, 3])
    assert [baseline[name] for name in ("rows", "right", "ties", "value")] == [4, 2.5, 1, 0.625]
    assert baseline["low"] < 0.625 < baseline["high"]


def test_accuracy_by_which_answer_is_longer():
    chosen, rejected = [3, 0, 3, 0, 1], [1, 1, 1, 0, 2]
    groups = accuracy_by_length(chosen, rejected, [9, 9, 1, 1, 4], [1, 1, 9, 9, 4])
    assert {name: (group["right"], group["rows"], group["ties"]) for name, group in groups.items()} == {
        "chosen longer": (1, 2, 0),
        "rejected longer": (1, 2, 1),
        "equal length": (0, 1, 0),
    }
    assert sum(group["right"] for group in groups.values()) == pair_accuracy(chosen, rejected)["right"]


def test_calibration_by_hand():
    """sigmoid(ln 3) = 0.75, sigmoid(ln 19) = 0.95, sigmoid(800) = 1, and a tie is 0.5 and half right."""
    margins = [math.log(3), math.log(3), math.log(3), -math.log(3), math.log(19), 0.0, 800.0]
    bins = calibration_bins(margins, np.zeros(7), bins=5)
    columns = {name: [of_bin[name] for of_bin in bins] for name in bins[0]}
    assert columns["low"] == pytest.approx([0.5, 0.6, 0.7, 0.8, 0.9])
    assert columns["high"] == pytest.approx([0.6, 0.7, 0.8, 0.9, 1.0])
    assert columns["rows"] == [1, 0, 4, 0, 2]
    assert columns["confidence"] == [0.5, None, pytest.approx(0.75), None, pytest.approx(0.975)]
    assert columns["value"] == [0.5, None, pytest.approx(0.75), None, 1]
    assert columns["ties"] == [1, 0, 0, 0, 0]
    assert (columns["value_low"][2], columns["value_high"][2]) == wilson_interval(3, 4)
    assert calibration_error(bins) == pytest.approx(2 * 0.025 / 7, abs=1e-12)
    assert calibration_error(calibration_bins([], [])) is None


def test_a_calibrated_model_is_found_calibrated_and_an_overconfident_one_is_not():
    generator = np.random.default_rng(0)
    margins = generator.normal(0, 2, 40_000)
    signs = np.where(generator.random(40_000) < 1 / (1 + np.exp(-np.abs(margins))), 1, -1)
    margins = np.abs(margins) * signs
    assert calibration_error(calibration_bins(margins, np.zeros_like(margins))) < 0.01
    assert calibration_error(calibration_bins(5 * margins, np.zeros_like(margins))) > 0.1


@settings(deadline=None, max_examples=50)
@given(pairs=st.lists(st.tuples(st.integers(-9, 9), st.integers(-9, 9)), max_size=60), bins=st.integers(1, 12))
def test_the_calibration_bins_hold_every_pair_once_and_nothing_depends_on_a_shift(pairs, bins):
    chosen, rejected = np.array([p[0] for p in pairs], float), np.array([p[1] for p in pairs], float)
    table = calibration_bins(chosen, rejected, bins)
    accuracy = pair_accuracy(chosen, rejected)
    assert sum(of_bin["rows"] for of_bin in table) == len(pairs)
    assert sum(of_bin["right"] for of_bin in table) == accuracy["right"] + accuracy["ties"] / 2
    assert all(of_bin["low"] - 1e-9 <= of_bin["confidence"] <= of_bin["high"] for of_bin in table if of_bin["rows"])
    shifted = calibration_bins(chosen + 64, rejected + 64, bins)
    assert [of_bin["right"] for of_bin in shifted] == [of_bin["right"] for of_bin in table]


# --- intervals -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("right", "rows", "low", "high"),
    [
        (81, 263, 0.2553, 0.3662),  # these four from Newcombe (1998), table I, method 3
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
        (5, 10, 0.2366, 0.7634),
        (20, 20, 0.8389, 1.0000),
    ],
)
def test_wilson_against_known_values(right, rows, low, high):
    assert wilson_interval(right, rows) == pytest.approx((low, high), abs=5e-5)


def test_wilson_without_rows_and_with_wrong_counts():
    assert all(math.isnan(end) for end in wilson_interval(0, 0))
    with pytest.raises(ValueError, match="found 3 of 2"):
        wilson_interval(3, 2)


@given(rows=st.integers(1, 10_000), share=st.floats(0, 1))
def test_wilson_solves_its_own_equation_contains_the_share_and_narrows(rows, share):
    """The ends are the p for which |share - p| is 1.96 standard errors *at p*."""
    right = round(share * rows)
    low, high = wilson_interval(right, rows)
    assert 0 <= low <= right / rows <= high <= 1 and low < high
    for end in (low, high):
        assert (right / rows - end) ** 2 == pytest.approx(1.959964**2 * end * (1 - end) / rows, rel=1e-4, abs=1e-12)
    more_low, more_high = wilson_interval(4 * right, 4 * rows)
    assert more_high - more_low < high - low
    assert wilson_interval(rows - right, rows) == pytest.approx((1 - high, 1 - low), abs=1e-9)


def test_resampled_means_are_those_of_rows_drawn_with_replacement():
    values = np.array([0, 1, 1, 0.25, 1 / 3, 0, 1])
    means = resampled_means(values, np.random.default_rng(0), 40_000)
    slow = np.random.default_rng(1).choice(values, (40_000, 7)).mean(axis=1)
    assert means.shape == (40_000,)
    assert means.mean() == pytest.approx(values.mean(), abs=0.005)
    assert means.std() == pytest.approx(slow.std(), rel=0.02)
    assert np.quantile(means, [0.1, 0.5, 0.9]) == pytest.approx(np.quantile(slow, [0.1, 0.5, 0.9]), abs=0.01)


def test_rows_are_drawn_whole():
    """The columns of a row are not drawn apart: here they always add up to 1."""
    first = np.random.default_rng(0).random(50)
    means = resampled_means(np.stack([first, 1 - first], axis=1), np.random.default_rng(0))
    assert means.shape == (2000, 2) and np.ptp(means[:, 0]) > 0.05
    assert means.sum(axis=1) == pytest.approx(np.ones(2000))


def verdicts_of(right_per_subset: dict[str, float], times: int = 1) -> dict[str, np.ndarray]:
    """As many verdicts as the benchmark has rows (or `times` as many), of the accuracy given as nearly as possible."""
    return {
        name: np.arange(SUBSET_ROWS[name] * times) < round(share * SUBSET_ROWS[name] * times)
        for name, share in right_per_subset.items()
    }


def test_the_sections_have_the_interval_of_a_stratified_sample():
    figures = estimate(section_scores, verdicts_of(PUBLISHED))
    for section, published in PUBLISHED_SECTIONS.items():
        figure = figures[section]
        weights = {name: 984 if name == "math-prm" else SUBSET_ROWS[name] for name in SECTIONS[section]}
        variance = sum(w**2 * PUBLISHED[n] * (1 - PUBLISHED[n]) / SUBSET_ROWS[n] for n, w in weights.items())
        width = 2 * 1.96 * math.sqrt(variance) / sum(weights.values())
        assert figure.value == pytest.approx(published, abs=1e-6)
        assert figure.low < figure.value < figure.high
        assert figure.high - figure.low == pytest.approx(width, rel=0.1)
    assert figures["overall"].high - figures["overall"].low < figures["Chat"].high - figures["Chat"].low


def test_intervals_follow_the_seed_and_narrow_with_rows():
    figures = estimate(section_scores, verdicts_of(PUBLISHED))
    assert figures == estimate(section_scores, verdicts_of(PUBLISHED))
    assert figures["overall"] != estimate(section_scores, verdicts_of(PUBLISHED), seed=1)["overall"]
    nine_fold = estimate(section_scores, verdicts_of(PUBLISHED, times=9))["overall"]
    width = figures["overall"].high - figures["overall"].low
    assert nine_fold.high - nine_fold.low == pytest.approx(width / 3, rel=0.1)


def test_an_interval_does_not_depend_on_the_order_or_on_other_subsets():
    verdicts = verdicts_of(PUBLISHED)
    chat_alone = {name: verdicts[name] for name in reversed(SECTIONS["Chat"])} | {"donotanswer": np.zeros(0)}
    alone, whole = estimate(section_scores, chat_alone), estimate(section_scores, verdicts)
    assert (alone["Chat"].low, alone["Chat"].high) == pytest.approx((whole["Chat"].low, whole["Chat"].high), abs=1e-12)
    assert all(math.isnan(end) for end in (alone["Safety"].value, alone["Safety"].low, alone["overall"].high))


@settings(deadline=None, max_examples=30)
@given(shares=st.lists(st.floats(0, 1), min_size=23, max_size=23), seed=st.integers(0, 1000))
def test_a_bootstrap_interval_contains_the_figure(shares, seed):
    verdicts = verdicts_of(dict(zip(SUBSET_ROWS, shares, strict=True)))
    for figure in estimate(section_scores, verdicts, seed=seed).values():
        assert figure.low - 1e-12 <= figure.value <= figure.high + 1e-12


def test_intervals_of_rewardbench2_with_ties_and_of_rm_bench():
    generator = np.random.default_rng(3)
    credit = best_of_four_credit(generator.integers(0, 5, (1763, 4)))
    subsets = [name for name, rows in REWARDBENCH2_ROWS.items() if name != "Ties" for _ in range(rows)]
    ids = [f"{kind}:{number}" for number in range(51) for kind in ("ref", "tied")]
    right = [generator.normal(1, 1, 1 if row_id.startswith("ref") else 3) for row_id in ids]
    units = ties_units(ids, right, [generator.normal(-1, 1, 4) for _ in ids])
    values = by_subset(subsets, credit) | {"Ties": units}
    figures = estimate(rewardbench2_scores, values)
    assert figures["Ties"].value == rewardbench2_scores({"Ties": units.mean(axis=0)})["Ties"]
    assert all(0 < one.high - one.low < 0.3 and one.low < one.value < one.high for one in figures.values())

    wins = rm_bench_wins(*generator.normal(0, 1, (2, 1327, 3)))
    domains = generator.choice(RM_BENCH_NAMES, 1327).tolist()
    values = rm_bench_by_domain(domains, wins)
    figures = estimate(BENCHMARKS["rm_bench"].formula_of(values), values)
    assert len(figures) == 21
    assert all(0 < one.high - one.low < 0.2 and one.low < one.value < one.high for one in figures.values())


def test_a_subset_of_one_row_and_one_without_variance():
    assert resampled_means([1.0], np.random.default_rng(0)).tolist() == [1.0] * 2000
    incomplete = estimate(lambda means: {"figure": math.nan * means["a"]}, {"a": [0.0, 1.0]})["figure"]
    assert (incomplete.low, incomplete.high) == pytest.approx((math.nan, math.nan), nan_ok=True)
    perfect = estimate(section_scores, verdicts_of(dict.fromkeys(SUBSET_ROWS, 1.0)))["overall"]
    assert (perfect.value, perfect.low, perfect.high) == pytest.approx((1, 1, 1), abs=1e-12)


def test_by_subset_keeps_the_order_and_figures_can_be_written_as_json():
    groups = by_subset(["b", "a", "b"], [1, 2, 3])
    assert list(groups) == ["b", "a"] and groups["b"].tolist() == [1, 3]
    figures = estimate(section_scores, verdicts_of(PUBLISHED))
    assert json.loads(json.dumps(figures["Chat"].__dict__))["value"] == pytest.approx(0.963687, abs=1e-6)
