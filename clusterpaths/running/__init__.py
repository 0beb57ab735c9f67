"""What a run of the pipeline needs besides its stages: how pieces are run, and how their progress is shown."""
