"""Runs compared in one HTML page that needs no network: everything is in the file."""
