"""One build: the order of the stages, and what they make on the way to the report."""
