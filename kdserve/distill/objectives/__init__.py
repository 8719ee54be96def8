"""Losses: what the student is told about its distance to the teacher."""
