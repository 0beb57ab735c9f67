"""Tools for an assistant: the Model Context Protocol. No web framework here."""
