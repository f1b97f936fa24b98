"""The local page of playground.py: loading checkpoints, computing answers, rendering them."""
