"""What other people serve the same scikit-learn pipeline with.

Each file is run by its own environment, as ``python FILE PORT MODEL``; MODEL is a
:class:`~benchmarks.speed.servers.pipeline.Pipeline` that joblib reads.
"""
