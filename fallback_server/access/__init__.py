"""Who calls, and what they may do: rules and principals, apart from any transport."""
