"""What existing dashboards ask for, in the shapes they expect."""
