"""Numbers as reports carry them."""


def rounded(value: float) -> float:
    """To 9 digits, so that the order in which shards were merged does not show."""
    return float(f"{value:.9g}")
