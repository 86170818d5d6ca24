"""What is counted as it happens, and what is read at a scrape."""
