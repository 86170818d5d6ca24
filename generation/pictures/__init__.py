"""Pictures: reading hostile bytes, fitting them to size, and their files in the storage."""
