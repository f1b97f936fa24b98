"""Tasks to try the pipeline on, each made by a small seeded generator."""
