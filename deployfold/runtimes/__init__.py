"""How artifacts run: one module a runtime, all behind one protocol."""
