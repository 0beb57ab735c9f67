"""Commands that are no flows: serve, export, explain, inspect. No Prefect, so they start within a second or two."""
