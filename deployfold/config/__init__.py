"""The settings of the user: inputs, shapes, precisions, options and profiles, without torch."""
