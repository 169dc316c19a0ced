"""How every task on the embedded dataset is scored: pure functions of (truth, answer)."""
