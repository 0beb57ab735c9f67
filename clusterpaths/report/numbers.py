"""Numbers as the pages print them."""

from __future__ import annotations

from clusterpaths.metrics.paths import FEW_EXAMPLES

UNUSUAL = 95  # percentile of the OOD score from which an image is called unusual


def thousands(value: float) -> str:
    """1234567 -> "1,234,567"."""
    return f"{value:,.0f}"


def percent(share: float, digits: int = 0) -> str:
    """0.934 -> "93%"; a share that would print as all or nothing but isn't becomes ">99%" or "<1%"."""
    smallest = 10.0**-digits
    value = share * 100
    if 0 < value < smallest / 2:
        return f"<{smallest:.{digits}f}%"
    if 100 - smallest / 2 <= value < 100:
        return f">{100 - smallest:.{digits}f}%"
    return f"{value:.{digits}f}%"


def portion(count: int, known: int, of: bool = False, digits: int = 0) -> str:
    """A share of `known` examples: "93%", with `of` "93% of 24"; "1 of 2" of so few that 50% would look like a finding."""
    if known < FEW_EXAMPLES:
        return f"{count} of {known}"
    return percent(count / known, digits) + (f" of {thousands(known)}" if of else "")


def verdict(percentile: float) -> str:
    """How unusual an OOD score is, the same words everywhere.

    Args:
        percentile: percent of examples with a lower score.
    """
    if percentile >= 99:
        return "very unusual"
    return "unusual" if percentile >= UNUSUAL else "typical"


def seconds(value: float) -> str:
    """0.42 -> "0.4 s", 75 -> "1 min 15 s", 4000 -> "1 h 07 min"."""
    if value < 59.95:
        return f"{value:.1f} s"
    rounded = round(value)
    if rounded < 3600:
        return f"{rounded // 60} min {rounded % 60:02d} s"
    return f"{rounded // 3600} h {rounded % 3600 // 60:02d} min"
