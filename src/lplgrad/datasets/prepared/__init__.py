"""Prepared data sets: decode images into arrays on disk, and open the arrays."""
