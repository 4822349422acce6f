"""The traced graph that folding works on."""
