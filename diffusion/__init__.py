"""The autoregressive model's twin: the same trunk, trained to undo noise instead of to predict the next id."""
