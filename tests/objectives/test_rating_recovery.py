"""What is learned from ratings of a known world: their means, and with quantiles how sure one can be of them.

Ratings are linear in random features of the answers, with noise that grows with one of them, and learned by plain
gradient descent through the objective: no transformer, fixed seeds.
"""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from reward_modeling.objectives.quantiles import LEVELS, regression_of
from reward_modeling.objectives.rating_flags import RegressionFlags
from reward_modeling.objectives.regression import Regression

NAMES = ("kindness", "usefulness", "verbosity")
FEATURES, NOT_RATED, HELD_OUT = 6, 0.4, 4000


class World:
    """`(answers, features)` with a constant, of which the first decides how noisy a rating is."""

    def __init__(self, answers: int, seed: int):
        generator = torch.Generator().manual_seed(0)
        self.weights = torch.randn(FEATURES, len(NAMES), generator=generator)
        generator.manual_seed(seed)
        self.x = torch.rand(answers, FEATURES, generator=generator)
        self.x[:, -1] = 1.0
        self.means = self.x @ self.weights
        self.noise = 0.1 + 0.6 * self.x[:, :1]
        self.ratings = self.means + self.noise * torch.randn(answers, len(NAMES), generator=generator)
        known = torch.rand(answers, len(NAMES), generator=generator) > NOT_RATED
        known[~known.any(dim=1), 0] = True
        self.given = torch.where(known, self.ratings, math.nan)


def learned(objective: Regression, world: World, steps: int) -> torch.Tensor:
    """`(features, labels)`."""
    low, high = (of(world.ratings.numpy(), axis=0).tolist() for of in (np.min, np.max))
    objective.ranges = dict(zip(NAMES, zip(low, high, strict=True), strict=True))
    batch = objective.collate([[number] for number in range(len(world.x))], world.given.tolist())
    head = torch.zeros(FEATURES, objective.num_labels, requires_grad=True)
    optimizer = torch.optim.Adam([head], lr=0.02)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        optimizer.zero_grad()
        objective.loss(world.x @ head, batch).mean().backward()
        optimizer.step()
        schedule.step()
    return head.detach()


@pytest.mark.parametrize("loss", ["squared_error", "quantile"])
def test_means_are_recovered_though_ratings_are_missing(loss):
    objective = regression_of(RegressionFlags(attributes=",".join(NAMES), loss=loss))
    head, held_out = learned(objective, World(3000, seed=1), 600), World(HELD_OUT, seed=2)
    outputs = objective.attributes_of(held_out.x @ head)
    for place in range(len(NAMES)):
        low, high = objective.ranges[NAMES[place]]
        found = low + outputs[:, place].numpy() * (high - low)
        assert stats.spearmanr(found, held_out.means[:, place]).statistic > 0.98
        assert np.abs(found - held_out.means[:, place].numpy()).mean() < 0.06  # of a noise of 0.1 to 0.7


def test_intervals_hold_as_many_ratings_as_they_say_and_are_wide_where_the_noise_is():
    objective = regression_of(RegressionFlags(attributes=",".join(NAMES), loss="quantile"))
    head, held_out = learned(objective, World(3000, seed=1), 900), World(HELD_OUT, seed=2)
    quantiles = (held_out.x @ head).unflatten(1, (len(NAMES), len(LEVELS)))
    labels = objective.scaled(held_out.ratings)
    below = (labels[..., None] <= quantiles).float().mean(dim=0)  # (attributes, levels)
    assert (below - torch.tensor(LEVELS)).abs().max() < 0.03
    widths = quantiles[..., -1] - quantiles[..., 0]
    inside = (quantiles[..., 0] <= labels) & (labels <= quantiles[..., -1])
    assert (inside.float().mean(dim=0) - 0.9).abs().max() < 0.03
    noisy = held_out.noise[:, 0] > 0.4
    for part in (noisy, ~noisy):
        assert (inside[part].float().mean(dim=0) - 0.9).abs().max() < 0.06
    # the negative control: one width for all holds too few where it is noisy, and too many elsewhere
    middle = quantiles[..., len(LEVELS) // 2]
    fixed = (labels - middle).abs() <= widths.mean(dim=0) / 2
    assert fixed[noisy].float().mean() < 0.86 and fixed[~noisy].float().mean() > 0.93
    for place in range(len(NAMES)):
        assert stats.spearmanr(widths[:, place], held_out.noise[:, 0]).statistic > 0.9
