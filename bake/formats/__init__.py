"""Model formats: reading, planning and checking one format each."""
