"""What all networks share, without importing one: weights files, training, exports, runtimes."""
