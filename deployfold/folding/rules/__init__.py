"""The fold rules, one module each."""
