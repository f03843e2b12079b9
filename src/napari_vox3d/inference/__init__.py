"""Running models on volumes, in bounded memory, on any device."""
