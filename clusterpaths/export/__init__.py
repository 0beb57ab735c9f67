"""The path model: a classifier and its cluster paths as one ONNX file."""
