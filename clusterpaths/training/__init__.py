"""Training small image classifiers and writing them as ONNX."""
