"""Fuzzing: many broken, odd and random inputs for everything that the program reads; see engine.py."""
