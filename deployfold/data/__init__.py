"""Real inputs: images, arrays and labels, for calibration, accuracy and runs alike."""
