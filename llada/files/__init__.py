"""Reading and writing files: JSON that is checked, and writes that happen whole or not at all, text for a terminal."""
