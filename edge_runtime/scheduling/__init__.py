"""The near queue: bounded, earliest deadline first, batched where that pays."""
