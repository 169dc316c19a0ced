"""Ablations that need no training: what settings, guidance, grammar, decoders and the original's defects are worth."""
