"""The path service: a path model behind HTTP. `python -m deployments.path_service MODEL`."""
