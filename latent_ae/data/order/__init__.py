"""Which image is seen when: pure functions of the seed, for images by number, in buckets of sizes, and in streams."""
