"""Measures as pure functions on arrays: paths and their purity, decision alignment, agreement, OOD scores, intervals.

They follow Kroeger and Bindschaedler, Cluster Paths (arXiv 2510.06541): path complexity, weighted-path purity,
decision-alignment faithfulness, path agreement. Docstrings state where the source leaves a choice.
"""
