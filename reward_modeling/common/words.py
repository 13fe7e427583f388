"""Words that flags take and that the code beneath them knows, where they can be read before what trains is imported."""

SHARED_PREFIX = "shared_prefix"  # the attention, and the batching that needs it
PACKED, PADDED = "packed", "padded"
BATCHINGS = (SHARED_PREFIX, PACKED, PADDED)
ALL_LINEAR = "all-linear"  # of an adapter: all linear layers but the head
QUANTILE_MARK = "@"  # between an attribute and a level in the name of an output
TIE = 0.5  # the probability of a pair of which nobody is preferred
