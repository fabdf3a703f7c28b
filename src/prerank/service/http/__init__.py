"""HTTP: connections, limits, the native protocol, the page."""
