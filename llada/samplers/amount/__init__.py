"""How many positions a step writes."""
