"""Losses of a reward model: pure functions on the rewards of pairs."""

import torch
import torch.nn.functional as F


def bradley_terry_loss(
    chosen_rewards: torch.Tensor,
    rejected_rewards: torch.Tensor,
    margin: torch.Tensor | None = None,
    label_smoothing: float = 0.0,
) -> torch.Tensor:
    """Negative log-likelihood of the preferences, one value per pair.

    -(1 - s) log sigmoid(r_chosen - r_rejected - m) - s log sigmoid(-(r_chosen - r_rejected - m))

    With s = 0 and m = 0 this is equation 1 of "Learning to summarize from human feedback" (Stiennon et al.,
    2020); the margin m is that of Llama 2 (Touvron et al., 2023, equation 2); s is the probability that a
    label is flipped (conservative DPO's smoothing, applied to rewards).

    Args:
        chosen_rewards: `(pairs,)`, float32.
        rejected_rewards: `(pairs,)`, float32.
        margin: `(pairs,)` or None for no margin.
        label_smoothing: s, in [0, 0.5).

    Returns:
        `(pairs,)`.
    """
    difference = chosen_rewards - rejected_rewards
    if margin is not None:
        difference = difference - margin
    loss = -F.logsigmoid(difference)
    if label_smoothing:
        loss = (1 - label_smoothing) * loss - label_smoothing * F.logsigmoid(-difference)
    return loss


def center_rewards_penalty(chosen_rewards: torch.Tensor, rejected_rewards: torch.Tensor) -> torch.Tensor:
    """(r_chosen + r_rejected)^2 per pair, `(pairs,)`: pulls the mean reward to zero.

    A Bradley-Terry loss leaves the rewards free by a constant per prompt; see "Helping or Herding?"
    (Eisenstein et al., 2023, equation 2).
    """
    return (chosen_rewards + rejected_rewards).square()
