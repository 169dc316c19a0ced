"""Any corpus of images and texts as records: python -m lumina_jax.data.pretokenize SRC DST."""
