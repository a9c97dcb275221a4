"""How fast the reverse process runs, and what it takes back."""
