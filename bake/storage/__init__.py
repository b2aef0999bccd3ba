"""Bytes on this disk and on the Hub. Knows no model format."""
