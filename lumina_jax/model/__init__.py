"""The Chameleon decoder: presets, weights and the forward pass."""
