"""doge-serve under load."""
