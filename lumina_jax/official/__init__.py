"""The field's own benchmarks: images as their scorers read them, answers as their evaluators count them."""
