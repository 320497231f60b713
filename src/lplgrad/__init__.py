"""LPLgrad: a reproducible pipeline for deep active learning on images."""

__version__ = "0.1.0"
