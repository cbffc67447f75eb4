"""Pictures of what a net answers to, and of what it is given: one file for each kind, and `page`, which shows them."""
