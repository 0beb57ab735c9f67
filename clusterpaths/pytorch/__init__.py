"""Models of PyTorch: activations of a live model into the cache that a run fills, and its export to ONNX.

torch is imported inside functions only.
"""
