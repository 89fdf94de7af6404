"""One module for each view: the function that computes it, and the view that shows it."""
