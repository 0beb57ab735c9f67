"""A set of drawn faces, and new ones to watch."""

from tests.watched import cache, config, incoming, made, published  # noqa: F401 - fixtures
