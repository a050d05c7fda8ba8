"""Kriging by component, in space and in looks."""
