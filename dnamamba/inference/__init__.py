"""A model and data in, arrays out."""
