"""Whether new examples, and how a model treats them, are still as in a reference set."""
