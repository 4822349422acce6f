"""Real inputs: images, arrays, tensors and labels, for calibration, accuracy and runs.

Data that cannot be used raises a ``UsageError`` with the file and the place in it.
"""
