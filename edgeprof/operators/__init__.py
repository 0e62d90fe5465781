"""Candidate operators: what each costs, the torch module as deployed, and a naive reference."""
