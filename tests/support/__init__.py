"""Helpers of the tests: small models, a stand-in for the Hub, and runs of the command line."""
