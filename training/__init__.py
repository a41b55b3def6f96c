"""Labelled rows in, a bundle out."""
