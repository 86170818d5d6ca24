"""Logs, what they hide, and metrics."""
