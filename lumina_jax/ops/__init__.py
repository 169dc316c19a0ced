"""Pure array functions: norms, rotary positions, attention, the key/value cache and losses."""
