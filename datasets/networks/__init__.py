"""Shared code of all networks, without importing one: weights, training, exports, runtimes."""
