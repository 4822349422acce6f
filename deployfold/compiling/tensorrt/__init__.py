"""Building engines with TensorRT 10, TensorRT 11 and TensorRT-RTX."""
