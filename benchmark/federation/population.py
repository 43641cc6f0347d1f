"""Who takes part."""

from benchmark.federation.settings import FL


def participants(fl: FL) -> int:
    """How many clients take part in a round."""
    return max(1, round(fl.client_fraction * fl.num_clients))
