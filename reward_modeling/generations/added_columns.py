"""The columns that score.py adds to rows; `scored_rows` says what they hold."""

REWARDS, REWARD_KIND, REASON = "rewards", "reward_kind", "not_scored"
ADDED = (REWARDS, "attributes", "gate_weights", "intervals", "steps", REWARD_KIND, REASON)
WIN_PROBABILITY = "win probability among the answers of this row"  # a `REWARD_KIND`
