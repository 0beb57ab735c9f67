"""The explorer's web server: the only place that imports FastAPI."""
