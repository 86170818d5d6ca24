"""Which of these tests every run includes."""

# Minutes of killed processes each: `make chaos` runs them, in their long form.
collect_ignore = ["test_storm.py", "test_cancels.py"]
