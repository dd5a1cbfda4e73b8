"""A conversation in the terminal: reads messages, prints answers, obeys commands. `doge-chat` is its command line."""
