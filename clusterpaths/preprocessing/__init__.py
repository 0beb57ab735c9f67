"""From an image to the model's input: the specification, its presets, files beside a model, and the check by labels."""
