"""What each operator does to channels."""
