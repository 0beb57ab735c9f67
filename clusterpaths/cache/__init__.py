"""The activations of one model on one data set: manifest, examples, and how rows are stored and read back."""
