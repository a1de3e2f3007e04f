"""Genomes as files, stores, regions, splits and windows."""
