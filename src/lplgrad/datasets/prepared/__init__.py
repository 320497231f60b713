"""Data sets on disk: decoding of images, and the arrays that all sources end in."""
