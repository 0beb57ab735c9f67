"""k-means of each layer's activations: numerics, the stage, and the choice of k, distance and layers."""
