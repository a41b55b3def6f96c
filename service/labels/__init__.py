"""Labelled files of other tools, read by what they hold."""
