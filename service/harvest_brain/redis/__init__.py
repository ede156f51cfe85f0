"""The Redis side: what comes over the wire and what goes back, and the one script that writes."""
