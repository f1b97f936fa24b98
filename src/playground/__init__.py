"""The local page of playground.py: what is loaded, what is computed, how it is shown."""
