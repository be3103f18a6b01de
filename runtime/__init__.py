"""Plumbing that knows nothing of pictures or words: configuration, checkpoints, devices, logging."""
