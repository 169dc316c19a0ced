"""The token language: vocabulary, text, image grids and sentences, conversations and task templates (no jax)."""
