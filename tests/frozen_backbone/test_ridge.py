"""Ridge regression in blocks against scikit-learn's on the whole, and attributes that are known recovered."""

import sys

import numpy as np
import pytest
from scipy.stats import spearmanr
from sklearn.linear_model import Ridge

from reward_modeling.common.errors import UserError
from reward_modeling.frozen_backbone.ridge import ALPHAS, HELD_OUT_SHARE, check_libraries, fit_ridge, predict

HIDDEN, ANSWERS = 48, 1200
# float64, sums of up to 1,200 products of size 1, systems of condition up to 1e3
TOLERANCE = 1e-10


def generated(seed: int = 0, noise: float = 4.0, objectives: int = 5):
    """Features (float32, as they are kept), labels with gaps, two answers to each prompt; the true outputs."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(ANSWERS, HIDDEN)).astype(np.float32)
    outputs = features @ rng.normal(size=(HIDDEN, objectives))
    labels = outputs + noise * rng.normal(size=outputs.shape)
    labels[rng.random(labels.shape) < 0.3] = np.nan
    labels[np.isnan(labels[:, 0]), 1] = np.nan  # two objectives that rate the same answers
    labels[np.isnan(labels[:, 1]), 0] = np.nan
    return features, labels, np.arange(ANSWERS) // 2, outputs


def in_blocks(features, size: int = 100):
    return lambda: ((slice(first, first + size), features[first : first + size]) for first in range(0, ANSWERS, size))


def sklearn_weights(features, labels, alpha):
    known = ~np.isnan(labels)
    return Ridge(alpha, fit_intercept=False).fit(features[known].astype(np.float64), labels[known]).coef_


@pytest.mark.parametrize("block, gram_bytes", [(100, 2**30), (7, 2**30), (5000, 2**30), (100, 1)])
def test_weights_are_those_of_scikit_learn(block, gram_bytes):
    """In blocks of any size, and read once for each objective or for all."""
    features, labels, prompts, _ = generated()
    fit = fit_ridge(in_blocks(features, block), labels, prompts, seed=0, gram_bytes=gram_bytes)
    for place, column in enumerate(labels.T):
        expected = sklearn_weights(features, column, fit.alpha[place])
        assert np.abs(fit.weights[place] - expected).max() < TOLERANCE
    other = sklearn_weights(features, labels[:, 0], 3 * fit.alpha[0])
    assert np.abs(fit.weights[0] - other).max() > 1e4 * TOLERANCE  # the negative control
    assert fit.rated.tolist() == (~np.isnan(labels)).sum(axis=0).tolist()


def test_alpha_is_the_one_with_the_least_error_on_prompts_that_were_not_fitted_on():
    features, labels, prompts, _ = generated()
    fit = fit_ridge(in_blocks(features), labels, prompts, seed=3)
    for place, column in enumerate(labels.T):
        known = ~np.isnan(column)
        rated = np.unique(prompts[known])
        drawn = np.random.default_rng(3).permutation(rated)[: int(HELD_OUT_SHARE * len(rated))]
        held_out = known & np.isin(prompts, drawn)
        fitted = np.where(held_out, np.nan, column)
        errors = [
            np.mean((features[held_out] @ sklearn_weights(features, fitted, alpha) - column[held_out]) ** 2)
            for alpha in ALPHAS
        ]
        np.testing.assert_allclose(fit.errors[place], errors, rtol=1e-5)
        assert fit.alpha[place] == ALPHAS[int(np.argmin(errors))]
        assert not set(prompts[held_out]) & set(prompts[~np.isnan(fitted)])
        mean = np.nanmean(fitted)
        assert fit.error_of_mean[place] == pytest.approx(np.mean((column[held_out] - mean) ** 2))
    assert not fit.at_the_end.any()
    assert len(set(fit.alpha)) > 1  # each objective has its own


def test_alpha_is_chosen_by_prompts_and_not_by_rows():
    """Features that name the prompt, and labels that are its alone: by rows every alpha would look good."""
    rng = np.random.default_rng(0)
    of_prompt = rng.normal(size=(ANSWERS // 2, HIDDEN)).astype(np.float32)
    features = np.repeat(of_prompt, 2, axis=0)
    labels = np.repeat(rng.normal(size=(ANSWERS // 2, 1)), 2, axis=0)
    labels[40:] = np.nan  # 20 prompts, fewer than features
    by_prompt = fit_ridge(in_blocks(features), labels, np.arange(ANSWERS) // 2, seed=0)
    by_row = fit_ridge(in_blocks(features), labels, np.arange(ANSWERS), seed=0)
    assert by_prompt.alpha[0] > 1e3 * by_row.alpha[0]
    assert by_prompt.at_the_end[0] or by_prompt.errors[0].min() > 0.5 * by_prompt.error_of_mean[0]


def test_the_fit_does_not_depend_on_the_answers_that_others_rate():
    features, labels, prompts, _ = generated()
    whole = fit_ridge(in_blocks(features), labels, prompts, seed=0)
    alone = fit_ridge(in_blocks(features), labels[:, 2:3], prompts, seed=0)
    np.testing.assert_allclose(whole.weights[2], alone.weights[0], atol=TOLERANCE)


def test_known_attributes_are_recovered():
    """Spearman above 0.95 between the true attributes and the outputs, on answers that were not fitted on."""
    features, labels, prompts, outputs = generated(noise=2.0)
    labels[ANSWERS * 3 // 4 :] = np.nan
    fit = fit_ridge(in_blocks(features), labels, prompts, seed=0)
    found = predict(in_blocks(features)(), fit.weights)
    unseen = slice(ANSWERS * 3 // 4, None)
    for place in range(labels.shape[1]):
        assert spearmanr(found[unseen, place], outputs[unseen, place]).statistic > 0.95
        assert spearmanr(found[unseen, place], outputs[unseen, place - 1]).statistic < 0.5  # not any attribute


def test_an_objective_of_one_prompt_is_refused():
    features, labels, prompts, _ = generated()
    labels[2:, 4] = np.nan
    labels[:2, 4] = [0.1, 0.2]
    with pytest.raises(UserError, match="--attributes: expected each to be rated in answers to two prompts at least"):
        fit_ridge(in_blocks(features), labels, prompts, seed=0)


def test_a_missing_library_is_said_in_one_message(monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy.linalg", None)
    with pytest.raises(UserError, match=r"--freeze_backbone: expected scipy.*pip install scipy"):
        check_libraries()
