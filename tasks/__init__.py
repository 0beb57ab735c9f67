"""The stages as Prefect tasks: names, retries, logs, progress and artifacts. No algorithm lives here."""
