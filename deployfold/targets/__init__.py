"""GPUs and engine libraries: the catalogue of GPUs, the libraries, and those of this machine."""
