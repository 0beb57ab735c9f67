"""Measures as pure functions on arrays: alignment, agreement, purity, out-of-distribution scores, intervals."""
