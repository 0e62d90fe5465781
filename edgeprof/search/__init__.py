"""The architecture search: its space, the budgets, and what looks for the best layout that keeps them."""
