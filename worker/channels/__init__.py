"""Ways out: the port every provider implements, and one module for each provider."""
