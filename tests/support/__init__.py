"""What tests of several kinds share: factories, doubles, files, and the running service."""
