"""GPUs and engine libraries: the catalogue, what builds for which GPU, and this machine's own."""
