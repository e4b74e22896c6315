"""Real servers, and a cluster that breaks on demand. Reached by the rest over the network only, as a real cluster would be."""
