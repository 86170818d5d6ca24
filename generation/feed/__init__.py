"""The feed of a generation: numbered events in Redis, and those who follow them."""
