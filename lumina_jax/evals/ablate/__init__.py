"""Ablations: arms trained at equal compute from several seeds, scored, and compared pair by pair."""
