"""Data work: what of a set somebody should look at, relabel, remove or collect. No web framework here."""
