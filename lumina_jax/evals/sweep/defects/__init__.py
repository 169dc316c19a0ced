"""Known defects of the original, measured one by one on one model: a file each, and what each costs in a sentence."""
