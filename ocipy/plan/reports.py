"""Kinds of messages between the runtime and init, numbered from 1 in this order. A file of its own: start needs no ops."""

REPORTS = ("SYNC", "ERROR", "WARNING", "PID", "CONSOLE", "LISTENER", "READY", "EXECUTING", "ACK", "GO", "STEP")
