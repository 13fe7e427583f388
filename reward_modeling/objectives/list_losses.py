"""Losses of ranked lists of answers."""

import torch


def plackett_luce_loss(rewards: torch.Tensor, ranks: torch.Tensor) -> torch.Tensor:
    """Negative log-likelihood of rankings, divided by the number of choices in each: one value per list.

    From the best answer on, each is chosen among those that are left, with a probability of the softmax of their
    rewards (Plackett, 1975; Luce, 1959; for reward models Zhu et al., 2023). Equal ranks are answers whose
    order is not known; their likelihood is Efron's (1977) approximation of the mean over their orders, known from Cox
    regression: in the l-th choice of m tied answers, l = 0 to m - 1, the share l / m of each of them is gone.

    Where all answers that are left have one rank, be it one answer or many, there is no choice any more: in some order
    they follow, with probability 1. So a list of two is a pair of Bradley and Terry's, with the same loss, and one
    best answer among K equal others is one choice of the best.

    Args:
        rewards: `(lists, answers)`; what stands in places without an answer does not matter.
        ranks: `(lists, answers)` whole numbers, 1 for the best; 0 where there is no answer.

    Returns:
        `(lists,)`.
    """
    answers = rewards.shape[1]
    is_answer = ranks > 0
    order = torch.argsort(torch.where(is_answer, ranks, answers + 1), dim=1, stable=True)
    rewards, ranks = rewards.gather(1, order), ranks.gather(1, order)
    is_answer = ranks > 0
    rewards = torch.where(is_answer, rewards, 0.0)
    tied = (ranks.unsqueeze(2) == ranks.unsqueeze(1)) & is_answer.unsqueeze(2)  # choice, answer
    left = (ranks.unsqueeze(2) <= ranks.unsqueeze(1)) & is_answer.unsqueeze(2) & is_answer.unsqueeze(1)
    places = torch.arange(answers, device=ranks.device)
    number = tied.sum(dim=2)  # of answers with the rank of each
    before = (tied & (places.unsqueeze(0) < places.unsqueeze(1))).sum(dim=2)  # of them, those in earlier choices
    share_left = 1 - before.to(rewards.dtype) / number.clamp(min=1)
    shares = torch.where(tied, share_left.unsqueeze(2), 1.0) * left
    logs = torch.log(shares) + rewards.unsqueeze(1)  # minus infinity where an answer is not left
    logs = torch.where(is_answer.unsqueeze(2), logs, 0.0)
    totals = torch.logsumexp(logs, dim=2)
    is_choice = is_answer & (ranks.unsqueeze(2) < ranks.unsqueeze(1)).any(dim=2)
    losses = torch.where(is_choice, totals - rewards, 0.0)
    return losses.sum(dim=1) / is_choice.sum(dim=1).clamp(min=1)
