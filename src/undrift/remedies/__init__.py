"""Remedies at sampling time, one file each, and the search for their strengths."""
