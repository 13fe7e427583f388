"""Score conversations with a reward model, compare answers with a pairwise one, score steps with a process model."""

from reward_modeling.data.comparisons import Comparison
from reward_modeling.data.conversations import Chain, Templated, Tokens
from reward_modeling.scoring.pair_scorer import PairScorer
from reward_modeling.scoring.ranking import Ranking
from reward_modeling.scoring.readouts.base import ScoredConversation
from reward_modeling.scoring.scorer import RewardScorer
from reward_modeling.scoring.step_scorer import StepScorer

__all__ = [
    "Chain",
    "Comparison",
    "PairScorer",
    "Ranking",
    "RewardScorer",
    "ScoredConversation",
    "StepScorer",
    "Templated",
    "Tokens",
]
