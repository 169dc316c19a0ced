"""What a run file would need and take on accelerators that are not here: compiled ahead of time, counted, projected."""
