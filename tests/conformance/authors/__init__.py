"""Who says what stands in each file of vectors."""
