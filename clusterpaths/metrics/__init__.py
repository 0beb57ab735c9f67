"""Measures as pure functions on arrays: paths and their purity, decision alignment, agreement, OOD scores, intervals.

They follow Kroeger and Bindschaedler, Cluster Paths (arXiv 2510.06541): path complexity, weighted-path purity,
decision-alignment faithfulness, path agreement. A docstring says where we had to decide.
"""
