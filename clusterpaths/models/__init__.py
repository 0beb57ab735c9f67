"""ONNX models: check, inspect, tap and run them."""
