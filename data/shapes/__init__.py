"""Captioned shapes: a small world whose pictures can be checked exactly, without learned weights."""
