"""A round of active learning: its labels, its networks, the training loop, the query, and the files between them."""
