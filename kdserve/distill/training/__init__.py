"""The loop that is the same for every task, and what it is made of."""
