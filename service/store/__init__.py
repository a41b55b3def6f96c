"""What is kept: annotations, trainings, model versions and keys, in SQLite or PostgreSQL."""
