"""Watching a model in production: windows of new images against a set, and whether their routes have drifted."""
