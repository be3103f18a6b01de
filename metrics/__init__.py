"""Judging what a checkpoint draws. Nothing in the core imports this."""
