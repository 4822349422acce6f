"""What the user asked for: inputs, shapes, precisions, options and profiles, without torch."""
