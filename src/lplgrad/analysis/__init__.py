"""From the files of all rounds to measurements and statistics."""
