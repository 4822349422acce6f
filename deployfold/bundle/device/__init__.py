"""What runs on a device: ``run.py`` and its parts, with numpy and the device's own runtime."""
