"""Scorers rate the emotion in an answer."""
