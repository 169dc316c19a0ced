"""Training: optimiser, curriculum, steps and loop."""
