"""Repair bench: do the recommendations repair the sick set-ups of the fault bench?"""
