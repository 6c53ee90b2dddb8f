"""Frames in, labels out: engines, geometry, sources, sinks and honest times."""
