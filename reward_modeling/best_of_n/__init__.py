"""From scored answers to training data: which answers, which pairs, and what the choice gains."""
