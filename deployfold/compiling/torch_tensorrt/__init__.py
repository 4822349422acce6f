"""Programs with TensorRT engines inside, by torch-tensorrt."""
