"""The talk: notebooks that go from text to the next token, and slides made of them."""
