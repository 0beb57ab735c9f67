"""Drawn faces in CelebA's layout: a sample that needs no download and no licence."""
