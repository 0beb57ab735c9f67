"""/api/v1: the explorer's records as JSON."""
