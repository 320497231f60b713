"""Commands around a study: how far it is, and what it will cost."""
