"""Learning curves of a run, by its scores."""
