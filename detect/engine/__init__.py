"""Our own training loop, for networks that ``ultralytics`` does not train."""
