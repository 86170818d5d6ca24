"""The process with the GPU."""
