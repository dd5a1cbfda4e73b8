"""How the numbers of large matrices are chosen and stored."""
