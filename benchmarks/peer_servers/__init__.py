"""What people write around diffusers, for `benchmarks.peers`: each runs in an environment of its own."""
