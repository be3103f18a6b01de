"""Autoregression against diffusion: a plan, its cells, and the report that is computed from them."""
