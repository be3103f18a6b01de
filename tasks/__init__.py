"""What a sequence means: each task turns an example into segments, and nothing else knows tasks by name."""
