"""Files, locks, memory and numerics: what every room may use."""
