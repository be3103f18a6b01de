"""Images to codes, text to ids, and both to one sequence."""
