"""Score conversations with a trained reward model."""

from reward_modeling.data.conversations import Templated, Tokens
from reward_modeling.scoring.readouts.base import ScoredConversation
from reward_modeling.scoring.scorer import RewardScorer

__all__ = ["RewardScorer", "ScoredConversation", "Templated", "Tokens"]
