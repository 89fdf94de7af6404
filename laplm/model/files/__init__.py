"""What models are stored in: files read and written, each format in a file of its own."""
