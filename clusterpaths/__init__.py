"""Cluster paths of image models.

Every stage is a function: configuration and paths in, a record out. Nothing here knows of Prefect.
"""
