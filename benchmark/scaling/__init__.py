"""How time and memory grow with clients, parameters and cells, and what a cluster would take."""
