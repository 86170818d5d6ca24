"""Tools for whoever installs, updates and ships this project; each needs only Python's own library."""
