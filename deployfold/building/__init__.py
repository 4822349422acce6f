"""Runs one build: the stages in their order, the journal, and the report."""
