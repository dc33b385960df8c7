"""Runtimes of the networks: torch, or ONNX Runtime and OpenVINO with graphs of the weights."""
