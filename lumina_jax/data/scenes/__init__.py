"""Scenes: images drawn by code from one description, out of which come the picture and every answer about it."""
