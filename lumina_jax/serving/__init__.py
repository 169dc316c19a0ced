"""Many requests on shared slots: the queue, and files of prompts painted through it."""
