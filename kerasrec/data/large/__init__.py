"""Logs larger than memory: read in pieces, kept and counted by DuckDB on disk, made small."""
