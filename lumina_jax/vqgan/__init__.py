"""The image tokenizer: pixels to discrete codes and back."""
