"""Crystals, their electron density and their ELF: training data from Quantum ESPRESSO."""
