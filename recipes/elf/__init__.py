"""Recipes for the ELF models: tables of form factors, training, comparison."""
