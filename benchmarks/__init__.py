"""Measurements, started by hand: ``make bench`` runs them all, ``python -m benchmarks.NAME`` one."""
