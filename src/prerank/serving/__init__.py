"""From raw request to ranked ids."""
