"""Scores of a trained model, read off its images by the detector."""
