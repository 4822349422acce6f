"""GPUs: the catalogue of the known ones, and the one in this machine."""
