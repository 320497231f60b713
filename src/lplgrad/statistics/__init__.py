"""What may be concluded from measurements: pure functions, from arrays and tidy frames to tidy frames.

What is computed and why stands in ``docs/statistics.md``. The tests are scipy's wherever scipy has them.
"""
