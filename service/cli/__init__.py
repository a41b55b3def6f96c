"""The commands that serve, and that look after what a service keeps. They import the rest of the service when run."""
