"""Drills: the whole service, on a real socket and a real database, hurt on purpose while somebody counts."""
