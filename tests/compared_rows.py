"""Rows to compare answers of: learnable pairs with labels, and ranked lists."""

from labelled_rows import labelled_rows


def compared_rows(num_prompts: int, seed: int) -> list[dict]:
    """Probabilities, ties, weights, and lists of which two answers may tie."""
    return [
        {name: value for name, value in row.items() if name != "strength"} for row in labelled_rows(num_prompts, seed)
    ]
