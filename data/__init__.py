"""Where examples come from: procedural shapes, folders, parquet, the Hugging Face hub."""
