"""Other people's classifiers on our task, each a process of its own so that it may have packages of its own.

A peer reads a job from standard input, JSON with ``topics``, ``fitted`` (text and topics with stances), ``texts`` to
score, ``checkpoint`` and ``seed``, and writes its answer to standard output; :mod:`benchmarks.peers.job` does both.
"""
