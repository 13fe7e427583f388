"""Score conversations with a trained reward model, or compare answers with a pairwise one."""

from reward_modeling.data.comparisons import Comparison
from reward_modeling.data.conversations import Templated, Tokens
from reward_modeling.scoring.pair_scorer import PairScorer
from reward_modeling.scoring.ranking import Ranking
from reward_modeling.scoring.readouts.base import ScoredConversation
from reward_modeling.scoring.scorer import RewardScorer

__all__ = ["Comparison", "PairScorer", "Ranking", "RewardScorer", "ScoredConversation", "Templated", "Tokens"]
