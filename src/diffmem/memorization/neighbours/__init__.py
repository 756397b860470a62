"""Exact nearest neighbours among training images, and an index that finds them sooner."""
