"""What the program costs, measured against the least it could cost and against what one would use instead."""
