"""Real inputs: images, arrays, tensors and labels, for calibration, accuracy and runs."""
