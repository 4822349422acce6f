"""The code that runs on a device: ``run.py`` and its parts, with numpy and the device's runtime."""
