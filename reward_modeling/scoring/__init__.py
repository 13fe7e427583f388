"""Score conversations with a trained reward model, and the steps of answers with a process model."""

from reward_modeling.data.conversations import Chain, Templated, Tokens
from reward_modeling.scoring.readouts.base import ScoredConversation
from reward_modeling.scoring.scorer import RewardScorer
from reward_modeling.scoring.step_scorer import StepScorer

__all__ = ["Chain", "RewardScorer", "ScoredConversation", "StepScorer", "Templated", "Tokens"]
