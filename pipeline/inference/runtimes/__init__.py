"""What runs the networks: torch, or ONNX Runtime and OpenVINO by graphs of the weights."""
